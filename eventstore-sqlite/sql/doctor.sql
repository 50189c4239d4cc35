-- The number of events, and the last position.
SELECT (SELECT count(*) FROM eventstore_events),
       (SELECT coalesce(max(position), 0) FROM eventstore_events)
