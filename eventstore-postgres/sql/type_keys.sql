-- The keys of these types, given out if they are new.
SELECT type_key, category, name FROM {schema}.type_keys($1, $2)
