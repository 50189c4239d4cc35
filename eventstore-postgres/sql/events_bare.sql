-- A page of a stream with only the columns that a state needs: stream $1, after position $2, up to position $3, after
-- version $4, up to version $5, at most $6. "+ 0" keeps the planner from the primary key, which it would intersect with
-- the stream.
SELECT version, type_key, schema, payload, position FROM {schema}.events
 WHERE stream = $1 AND position + 0 > $2 AND position + 0 <= $3 AND version > $4 AND version <= $5
 ORDER BY version LIMIT $6
