-- The number of event types.
SELECT count(*) FROM eventstore_types
