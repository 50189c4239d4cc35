-- The rows that match, at most $1.
SELECT t.key, (SELECT row_to_json(r)::text FROM (SELECT {columns}) AS r)
  FROM {table} AS t WHERE {conditions} ORDER BY t.key LIMIT $1
