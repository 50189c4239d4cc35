-- The events with these ids.
SELECT 0::bigint AS head, e.position, e.version, e.recorded_at, e.occurred_at, e.event_id, e.type_key, e.schema, e.stream, e.tags, e.metadata, e.payload
  FROM {schema}.events AS e
 WHERE e.event_id = ANY ($1)
