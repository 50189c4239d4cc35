-- Whether the schema of rows says whose rows they are, whether it is the schema of a log, and whether it can be written to.
SELECT to_regclass('{tables}.eventstore_log') IS NOT NULL, to_regclass('{tables}.events') IS NOT NULL, NOT pg_is_in_recovery()
