-- Inserts a shard.
INSERT INTO eventstore_checkpoints (projection, from_slot, to_slot, position, event_id, epoch, owner, updated_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
