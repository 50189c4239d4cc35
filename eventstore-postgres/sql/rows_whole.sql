-- Rows of a table with all columns it has: those after a key, with these keys if there are any.
SELECT t.key, (to_jsonb(t) - 'key')::text
  FROM {tables}.{table} AS t
 WHERE t.key > $1 AND ($2::text[] IS NULL OR t.key = ANY ($2))
 ORDER BY t.key
 LIMIT $3
