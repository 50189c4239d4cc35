-- A page of the log: after ?1, up to ?2, at most ?3.
SELECT e.position, e.version, e.recorded_at, e.occurred_at, e.event_id, coalesce(t.name, '?' || e.type_key), e.schema, e.stream, e.tags, e.metadata, e.payload,
       t.name IS NULL
  FROM eventstore_events AS e
  LEFT JOIN eventstore_types AS t USING (type_key)
 WHERE e.position > ?1 AND e.position <= ?2
 ORDER BY e.position
 LIMIT ?3
