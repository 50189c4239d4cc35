-- The identity of the log.
SELECT id, epoch, since FROM {schema}.identity
