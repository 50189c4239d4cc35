-- The shards of a projection, or of all, with their checkpoints.
SELECT projection, from_slot, to_slot, position, event_id, epoch, owner FROM {schema}.shards($1)
 ORDER BY projection, from_slot
