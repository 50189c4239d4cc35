-- The checkpoint of a shard; nobody else moves it until this transaction ends.
SELECT projection, from_slot, to_slot, position, event_id, epoch, owner FROM {schema}.checkpoints
 WHERE projection = $1 AND from_slot = $2 AND to_slot = $3
   FOR NO KEY UPDATE
