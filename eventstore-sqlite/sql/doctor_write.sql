-- Changes nothing, and fails if the file is read-only.
UPDATE eventstore_checkpoints SET updated_at = updated_at WHERE FALSE
