-- Creates the index of a column that rows are looked up by.
CREATE INDEX {index} ON {table} ({column})
