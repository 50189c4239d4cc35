-- The rows that match, in order, at most $2 after the first $3; last, without a key, the types of the table's columns.
(SELECT t.key, (SELECT row_to_json("~row")::text FROM (SELECT {columns}) AS "~row"), row_number() OVER (ORDER BY {order})
   FROM {from} AS t WHERE {conditions} ORDER BY {order} LIMIT $2 OFFSET $3)
 UNION ALL
SELECT NULL, json_object_agg(attname, format_type(atttypid, atttypmod))::text, NULL FROM pg_catalog.pg_attribute
 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
 ORDER BY 3
