-- Creates the view of this name on a table. A view of SQLite follows a renamed table, so it is dropped first.
DROP VIEW IF EXISTS {view};
CREATE VIEW {view} AS SELECT * FROM {table};
