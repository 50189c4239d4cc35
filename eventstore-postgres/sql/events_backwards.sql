-- A page of the log, newest first, the head and the number of event types, in one snapshot: after $1, up to $2, at most
-- $3.
SELECT log.head, e.position, e.version, e.recorded_at, e.occurred_at, e.event_id, e.type_key, e.schema, e.stream, e.tags, e.metadata, e.payload,
       (SELECT count(*) FROM {schema}.event_types) AS types
  FROM (SELECT coalesce(max(position), 0) AS head FROM {schema}.events) AS log
  LEFT JOIN LATERAL (SELECT * FROM {schema}.events
                      WHERE position > $1 AND position <= $2
                      ORDER BY position DESC LIMIT $3) AS e ON true
