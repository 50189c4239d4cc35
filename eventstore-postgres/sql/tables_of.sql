-- Whether the schema of rows says whose rows they are, and whether it is the schema of a log.
SELECT to_regclass('{tables}.eventstore_log') IS NOT NULL, to_regclass('{tables}.events') IS NOT NULL
