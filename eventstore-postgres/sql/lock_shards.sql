-- The shards of a projection; nobody else moves any until this transaction ends.
SELECT projection, from_slot, to_slot, position, event_id, epoch, owner FROM {schema}.lock_shards($1) ORDER BY from_slot
