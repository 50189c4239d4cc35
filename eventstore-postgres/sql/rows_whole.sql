-- Rows of a table with all its columns: with a key after $1, and among the keys $2 if that is not NULL; at most $3.
SELECT "~row".key, (to_jsonb("~row") - 'key')::text
  FROM {tables}.{table} AS "~row"
 WHERE "~row".key > $1 AND ($2::text[] IS NULL OR "~row".key = ANY ($2))
 ORDER BY "~row".key
 LIMIT $3
