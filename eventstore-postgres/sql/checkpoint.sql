-- How far a projection has come.
SELECT position FROM {schema}.checkpoints WHERE projection = $1
