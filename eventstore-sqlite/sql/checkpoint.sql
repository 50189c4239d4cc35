-- How far a projection has come.
SELECT position FROM eventstore_checkpoints WHERE projection = ?1
