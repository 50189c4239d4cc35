-- The key of one event type.
SELECT type_key FROM eventstore_types WHERE category = ?1 AND name = ?2
