-- Rows of a table with all its columns: with a key after ?1, and among the keys ?2 (a JSON array) if that is not NULL;
-- at most ?3.
SELECT key, {columns} FROM {table}
 WHERE key > ?1 AND (?2 IS NULL OR key IN (SELECT value FROM json_each(?2)))
 ORDER BY key
 LIMIT ?3
