-- A page of a query, newest first, the head and the number of event types: after $1, up to $2, at most $3; items $4 to
-- $7 as in `matching_backwards`.
SELECT log.head, e.position, e.version, e.recorded_at, e.occurred_at, e.event_id, e.type_key, e.schema, e.stream, e.tags, e.metadata, e.payload,
       (SELECT count(*) FROM {schema}.event_types) AS types
  FROM (SELECT coalesce(max(position), 0) AS head FROM {schema}.events) AS log
  LEFT JOIN LATERAL (SELECT found.* FROM {schema}.matching_backwards($4, $5, $6, $7, $1, least($2, log.head), $3) AS m (position)
                       JOIN {schema}.events AS found ON found.position = m.position) AS e ON true
