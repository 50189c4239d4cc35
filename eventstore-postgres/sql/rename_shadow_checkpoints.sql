-- The checkpoints of a shadow, under its new name.
UPDATE {schema}.checkpoints SET projection = $2 WHERE projection = $1
