-- Shows a table under a name. A view cannot change into one with other columns, so it is made anew.
SET LOCAL lock_timeout = '500ms';
DROP VIEW IF EXISTS {tables}.{view};
CREATE VIEW {tables}.{view} AS SELECT * FROM {tables}.{table};
