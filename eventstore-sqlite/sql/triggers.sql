-- The triggers of the tables of the log, as they were written.
SELECT name, sql FROM sqlite_schema
 WHERE type = 'trigger' AND tbl_name IN ('eventstore_events', 'eventstore_tags', 'eventstore_types')
