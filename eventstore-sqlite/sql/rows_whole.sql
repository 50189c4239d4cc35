-- Rows of a table with all columns it has: those after a key, with these keys if there are any.
SELECT key, {columns} FROM {table}
 WHERE key > ?1 AND (?2 IS NULL OR key IN (SELECT value FROM json_each(?2)))
 ORDER BY key
 LIMIT ?3
