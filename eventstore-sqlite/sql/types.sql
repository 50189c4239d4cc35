-- All event types.
SELECT type_key, category, name FROM eventstore_types
