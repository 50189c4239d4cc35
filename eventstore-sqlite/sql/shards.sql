-- The shards of a projection, or of all, with their checkpoints.
SELECT projection, from_slot, to_slot, position, event_id, epoch, owner FROM eventstore_checkpoints
 WHERE ?1 IS NULL OR projection = ?1
 ORDER BY projection, from_slot
