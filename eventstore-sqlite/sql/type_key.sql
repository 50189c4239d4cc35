-- The key of one type of event.
SELECT type_key FROM eventstore_types WHERE category = ?1 AND name = ?2
