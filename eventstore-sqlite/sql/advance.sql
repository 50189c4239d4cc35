-- Advances a checkpoint, never back.
UPDATE eventstore_checkpoints SET position = ?4, event_id = ?5, updated_at = ?6
 WHERE projection = ?1 AND from_slot = ?2 AND to_slot = ?3 AND position < ?4
