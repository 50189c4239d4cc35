-- A page of events from the event with id $1 on, skipping $2, at most $3. The caller takes those that belong to the
-- command.
SELECT 0::bigint AS head, e.position, e.version, e.recorded_at, e.occurred_at, e.event_id, e.type_key, e.schema, e.stream, e.tags, e.metadata, e.payload
  FROM (SELECT position FROM {schema}.events WHERE event_id = $1) AS first
  JOIN {schema}.events AS e ON e.position >= first.position + $2 AND e.position < first.position + $2 + $3
 ORDER BY e.position
