-- How many of the triggers that guard the events are there, and where the log ends.
SELECT (SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'eventstore_events'
                                             AND name IN ('eventstore_events_update', 'eventstore_events_delete')),
       (SELECT count(*) FROM eventstore_events),
       (SELECT coalesce(max(position), 0) FROM eventstore_events)
