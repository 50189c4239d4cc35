-- The last position recorded at or before an instant.
SELECT {schema}.position_at($1)
