-- Others come in their place.
DELETE FROM eventstore_checkpoints WHERE projection = ?1
