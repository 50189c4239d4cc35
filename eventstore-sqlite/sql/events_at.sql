-- The events at these positions, a JSON array.
SELECT e.position, e.version, e.recorded_at, e.occurred_at, e.event_id, coalesce(t.name, '?' || e.type_key), e.schema, e.stream, e.tags, e.metadata, e.payload,
       t.name IS NULL
  FROM eventstore_events AS e
  LEFT JOIN eventstore_types AS t USING (type_key)
 WHERE e.position IN (SELECT value FROM json_each(?1))
 ORDER BY e.position
