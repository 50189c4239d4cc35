-- Shows a table under a name. SQLite's views follow a table that is renamed, so it is made anew.
DROP VIEW IF EXISTS {view};
CREATE VIEW {view} AS SELECT * FROM {table};
