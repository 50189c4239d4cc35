-- How far a projection has come; nobody else moves it until this transaction ends.
SELECT position FROM {schema}.checkpoints WHERE projection = $1 FOR UPDATE
