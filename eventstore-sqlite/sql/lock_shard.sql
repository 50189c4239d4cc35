-- The checkpoint of a shard. The transaction has the write lock of the file, so no other connection can move it.
SELECT projection, from_slot, to_slot, position, event_id, epoch, owner FROM eventstore_checkpoints
 WHERE projection = ?1 AND from_slot = ?2 AND to_slot = ?3
