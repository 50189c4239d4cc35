-- A page of a stream, newest first: after position ?1, up to position ?2, at most ?3; stream ?4, after version ?5, up
-- to version ?6.
SELECT e.position, e.version, e.recorded_at, e.occurred_at, e.event_id, coalesce(t.name, '?' || e.type_key), e.schema, e.stream, e.tags, e.metadata, e.payload,
       t.name IS NULL
  FROM eventstore_events AS e
  LEFT JOIN eventstore_types AS t USING (type_key)
 WHERE e.stream = ?4 AND e.version > ?5 AND e.version <= ?6 AND e.position > ?1 AND e.position <= ?2
 ORDER BY e.version DESC
 LIMIT ?3
