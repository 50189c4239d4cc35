-- The rows are of the log $1, which is in the schema $2; unless another log was there first.
INSERT INTO {tables}.eventstore_log (log, schema) VALUES ($1, $2)
ON CONFLICT (one) DO UPDATE SET schema = excluded.schema WHERE eventstore_log.log = excluded.log
