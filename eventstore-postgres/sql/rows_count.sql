-- The number of rows that match, and the types of the table's columns.
SELECT (SELECT count(*) FROM {from} AS t WHERE {conditions}),
       json_object_agg(attname, format_type(atttypid, atttypmod))::text
  FROM pg_catalog.pg_attribute
 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
