-- A column that rows are looked for by.
CREATE INDEX {index} ON {table} ({column})
