-- The triggers of the tables of the log, each with the text that created it.
SELECT name, sql FROM sqlite_schema
 WHERE type = 'trigger' AND tbl_name IN ('eventstore_events', 'eventstore_tags', 'eventstore_types')
