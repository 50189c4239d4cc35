-- Where an event is.
SELECT position FROM eventstore_events WHERE event_id = ?1
