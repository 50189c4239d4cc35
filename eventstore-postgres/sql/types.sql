-- Every type of event there is.
SELECT type_key, category, name FROM {schema}.event_types
