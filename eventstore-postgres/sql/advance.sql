-- Moves a checkpoint forward, never back, to an event that is in the log. Says whether that one is, if one is named.
WITH named AS (
    SELECT $5::uuid IS NULL OR EXISTS (SELECT FROM {schema}.events WHERE position = $4 AND event_id = $5) AS there
), moved AS (
    UPDATE {schema}.checkpoints SET position = $4, event_id = $5, updated_at = clock_timestamp()
     WHERE projection = $1 AND from_slot = $2 AND to_slot = $3 AND position < $4 AND (SELECT there FROM named)
)
SELECT there FROM named
