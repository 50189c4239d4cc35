-- The rows with these keys; and last, with no key, the types of the columns there are.
SELECT t.key, (SELECT row_to_json(r)::text FROM (SELECT {columns}) AS r)
  FROM {table} AS t WHERE t.key = ANY ($2)
 UNION ALL
SELECT NULL, json_object_agg(attname, format_type(atttypid, atttypmod))::text FROM pg_catalog.pg_attribute
 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
 ORDER BY 1
