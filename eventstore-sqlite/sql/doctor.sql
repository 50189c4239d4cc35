-- How many events there are, and where the log ends.
SELECT (SELECT count(*) FROM eventstore_events),
       (SELECT coalesce(max(position), 0) FROM eventstore_events)
