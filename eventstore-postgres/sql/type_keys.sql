-- The keys of these event types. Creates the new ones.
SELECT type_key, category, name FROM {schema}.type_keys($1, $2)
