-- A snapshot and the events after it, in one snapshot of the database: the snapshot of stream $1 and kind $2, as a row
-- without a type, and the first $3 events of the stream from the snapshot's last one on, or of all. The events have
-- only the columns that the state and the next snapshot need.
WITH kept AS MATERIALIZED (SELECT * FROM {schema}.snapshots WHERE boundary = $1 AND kind = $2)
SELECT version, NULL::int AS type_key, NULL::int AS schema, state AS payload, position, event_id, recorded_at, checksum, shape
  FROM kept
 UNION ALL
(SELECT version, type_key, schema, payload, position, event_id, recorded_at, NULL, NULL
   FROM {schema}.events
  WHERE stream = $1 AND version >= coalesce((SELECT version FROM kept), 1)
  ORDER BY version LIMIT $3)
