-- The columns of a table, their types, and whether an index begins with them; no row if the table does not exist.
SELECT attname::text,
       format_type(atttypid, atttypmod),
       EXISTS (SELECT FROM pg_catalog.pg_index WHERE indrelid = attrelid AND indkey[0] = attnum AND indisvalid)
  FROM pg_catalog.pg_attribute
 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
