-- Changes nothing, and needs a file that may be written.
UPDATE eventstore_checkpoints SET updated_at = updated_at WHERE FALSE
