-- Drops a table.
SET LOCAL lock_timeout = '500ms';
DROP TABLE IF EXISTS {tables}.{table};
