-- The last position and when it was recorded.
SELECT position, recorded_at FROM eventstore_events ORDER BY position DESC LIMIT 1
