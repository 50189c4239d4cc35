-- Whether an event is in the log, where it is said to be.
SELECT EXISTS (SELECT 1 FROM eventstore_events WHERE position = ?1 AND event_id = ?2)
