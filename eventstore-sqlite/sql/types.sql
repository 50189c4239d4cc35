-- Every type of event there is.
SELECT type_key, category, name FROM eventstore_types
