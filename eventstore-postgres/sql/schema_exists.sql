-- Whether a schema is there.
SELECT to_regnamespace($1) IS NOT NULL
