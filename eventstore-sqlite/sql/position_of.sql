-- The position of an event.
SELECT position FROM eventstore_events WHERE event_id = ?1
