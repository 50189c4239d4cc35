-- Whether the schema of rows has a note of its log, whether it is the schema of a log, and whether the server takes
-- writes.
SELECT to_regclass('{tables}.eventstore_log') IS NOT NULL, to_regclass('{tables}.events') IS NOT NULL, NOT pg_is_in_recovery()
