-- Gives the checkpoints of a shadow its new name.
UPDATE {schema}.checkpoints SET projection = $2 WHERE projection = $1
