-- Whether the table of migrations exists.
SELECT to_regclass('{schema}.migrations') IS NOT NULL
