-- A page of a stream, and no more of each event than its state needs; before it the head, in one snapshot, as a version of
-- no type: stream $1, after position $2, up to position $3, after version $4, up to version $5, at most $6. "+ 0": else the
-- primary key may be read, to intersect it with the stream.
SELECT coalesce(max(position), 0) AS version, NULL AS type_key, NULL AS schema, NULL AS payload FROM {schema}.events
 UNION ALL
(SELECT version, type_key, schema, payload FROM {schema}.events
  WHERE stream = $1 AND position + 0 > $2 AND position + 0 <= $3 AND version > $4 AND version <= $5
  ORDER BY version LIMIT $6)
