-- The rows that match, at most ?1.
SELECT key, {columns} FROM {table} WHERE {conditions} ORDER BY key LIMIT ?1
