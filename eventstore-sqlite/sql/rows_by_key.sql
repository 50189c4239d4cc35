-- The rows with these keys, a JSON array.
SELECT key, {columns} FROM {from} WHERE key IN (SELECT value FROM json_each(?1)) ORDER BY key
