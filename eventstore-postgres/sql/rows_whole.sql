-- Rows of a table with all columns it has: those after a key, with these keys if there are any.
SELECT "~row".key, (to_jsonb("~row") - 'key')::text
  FROM {tables}.{table} AS "~row"
 WHERE "~row".key > $1 AND ($2::text[] IS NULL OR "~row".key = ANY ($2))
 ORDER BY "~row".key
 LIMIT $3
