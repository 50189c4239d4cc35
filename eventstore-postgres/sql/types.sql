-- All event types.
SELECT type_key, category, name FROM {schema}.event_types
