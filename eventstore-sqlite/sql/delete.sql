-- Deletes the rows with these keys, a JSON array.
DELETE FROM {table} WHERE key IN (SELECT value FROM json_each(?1))
