-- The rows with these keys; last, without a key, the types of the table's columns. Each key is looked up by itself,
-- however small the table was when this was planned: `= ANY` may be planned to compare each row with each key.
SELECT t.key, (SELECT row_to_json("~row")::text FROM (SELECT {columns}) AS "~row")
  FROM (SELECT DISTINCT key COLLATE "C" FROM unnest($2::text[]) AS asked (key)) AS n (key)
 CROSS JOIN LATERAL (SELECT * FROM {from} AS t WHERE t.key = n.key LIMIT 1) AS t
 UNION ALL
SELECT NULL, json_object_agg(attname, format_type(atttypid, atttypmod))::text FROM pg_catalog.pg_attribute
 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
 ORDER BY 1
