-- Creates the view of this name on a table. A view cannot change to other columns, so it is dropped first.
SET LOCAL lock_timeout = '500ms';
DROP VIEW IF EXISTS {tables}.{view};
CREATE VIEW {tables}.{view} AS SELECT * FROM {tables}.{table};
