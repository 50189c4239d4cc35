-- Creates the index of a column that rows are looked up by. The server chooses its name.
CREATE INDEX ON {table} ({column})
