-- The shards of a projection, or of all, with their checkpoints.
SELECT projection, from_slot, to_slot, position, event_id, epoch, owner FROM {schema}.checkpoints
 WHERE $1::text IS NULL OR projection = $1
 ORDER BY projection, from_slot
