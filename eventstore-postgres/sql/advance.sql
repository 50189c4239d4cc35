-- Moves a checkpoint forward, never back.
UPDATE {schema}.checkpoints SET position = $4, event_id = $5, updated_at = clock_timestamp()
 WHERE projection = $1 AND from_slot = $2 AND to_slot = $3 AND position < $4
