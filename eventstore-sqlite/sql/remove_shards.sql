-- Removes the shards that the new ones replace.
DELETE FROM eventstore_checkpoints WHERE projection = ?1
