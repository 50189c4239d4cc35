-- Whether the event ?2 is recorded at position ?1.
SELECT EXISTS (SELECT 1 FROM eventstore_events WHERE position = ?1 AND event_id = ?2)
