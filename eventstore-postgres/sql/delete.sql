-- Deletes the rows with these keys.
DELETE FROM {table} WHERE key = ANY ($1)
