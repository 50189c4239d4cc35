-- A page of a stream with only the columns that a state needs: after position ?1, up to position ?2, at most ?3; stream
-- ?4, after version ?5, up to version ?6.
SELECT e.version, coalesce(t.name, '?' || e.type_key), e.schema, e.payload, t.name IS NULL, e.position
  FROM eventstore_events AS e
  LEFT JOIN eventstore_types AS t USING (type_key)
 WHERE e.stream = ?4 AND e.version > ?5 AND e.version <= ?6 AND e.position > ?1 AND e.position <= ?2
 ORDER BY e.version
 LIMIT ?3
