-- A column that a row may be without.
ALTER TABLE {table} ADD COLUMN {column}
