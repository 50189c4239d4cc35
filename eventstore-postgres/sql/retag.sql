-- Gives events other tags.
SELECT {schema}.retag($1, $2, $3, $4)
