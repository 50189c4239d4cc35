-- Others come in their place.
DELETE FROM {schema}.checkpoints WHERE projection = $1 AND from_slot <> ALL ($2)
