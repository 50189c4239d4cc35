-- The events with these ids. Each id is looked up in the index by itself, because a plan made while the log is young
-- would scan all of it.
SELECT 0::bigint AS head, e.position, e.version, e.recorded_at, e.occurred_at, e.event_id, e.type_key, e.schema, e.stream, e.tags, e.metadata, e.payload
  FROM (SELECT DISTINCT id FROM unnest($1) AS ids (id)) AS n
 CROSS JOIN LATERAL (SELECT * FROM {schema}.events WHERE event_id = n.id LIMIT 1) AS e
