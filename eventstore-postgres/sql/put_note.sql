-- Notes that the rows belong to log $1 in schema $2, unless another log was first.
INSERT INTO {tables}.eventstore_log (log, schema) VALUES ($1, $2)
ON CONFLICT (one) DO UPDATE SET schema = excluded.schema WHERE eventstore_log.log = excluded.log
