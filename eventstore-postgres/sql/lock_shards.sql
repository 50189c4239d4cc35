-- Locks the shards of a projection until the transaction ends, and returns them.
SELECT projection, from_slot, to_slot, position, event_id, epoch, owner FROM {schema}.lock_shards($1) ORDER BY from_slot
