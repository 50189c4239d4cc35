-- The log to which the rows belong, the schema it had, and whether a log is in that schema now.
SELECT log, schema, to_regclass(format('%I.events', schema)) IS NOT NULL FROM {tables}.eventstore_log
