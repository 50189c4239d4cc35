-- The checkpoint of a shard: whoever writes to the file has it to themselves.
SELECT projection, from_slot, to_slot, position, event_id, epoch, owner FROM eventstore_checkpoints
 WHERE projection = ?1 AND from_slot = ?2 AND to_slot = ?3
