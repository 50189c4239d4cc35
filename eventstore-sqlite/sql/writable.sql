-- Changes nothing, and fails if the file is read-only.
UPDATE eventstore_identity SET epoch = epoch WHERE false
