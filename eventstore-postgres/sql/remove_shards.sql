-- Removes the shards that the new ones replace.
DELETE FROM {schema}.checkpoints WHERE projection = $1 AND from_slot <> ALL ($2)
