-- Adds an optional column of a read model.
ALTER TABLE {table} ADD COLUMN {column}
