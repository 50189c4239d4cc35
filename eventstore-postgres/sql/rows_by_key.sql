-- The rows with these keys.
SELECT t.key, (SELECT row_to_json(r)::text FROM (SELECT {columns}) AS r)
  FROM {table} AS t WHERE t.key = ANY ($1) ORDER BY t.key
