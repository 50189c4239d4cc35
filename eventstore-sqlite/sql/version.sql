-- The version a stream is at.
SELECT coalesce(max(version), 0) FROM eventstore_events WHERE stream = ?1
