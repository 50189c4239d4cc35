-- Whether the migrations table is there.
SELECT to_regclass('{schema}.migrations') IS NOT NULL
