-- The columns of a table, in order; none if there is no such table.
SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute
 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
