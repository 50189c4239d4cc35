-- The identity of the log.
SELECT id, epoch, since FROM eventstore_identity
