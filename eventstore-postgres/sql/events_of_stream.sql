-- A page of a stream, the head and the number of event types, in one snapshot: after position $1, up to position $2, at
-- most $3; stream $4, after version $5, up to version $6; of the names $7 (NULL: of all), with all the tags $8. "+ 0"
-- keeps the planner from the primary key, which it would intersect with the stream.
SELECT log.head, e.position, e.version, e.recorded_at, e.occurred_at, e.event_id, e.type_key, e.schema, e.stream, e.tags, e.metadata, e.payload,
       (SELECT count(*) FROM {schema}.event_types) AS types
  FROM (SELECT coalesce(max(position), 0) AS head FROM {schema}.events) AS log
  LEFT JOIN LATERAL (SELECT * FROM {schema}.events
                      WHERE stream = $4 AND version > $5 AND version <= $6 AND position + 0 > $1 AND position + 0 <= $2
                        AND ($7::text[] IS NULL
                             OR type_key IN (SELECT type_key FROM {schema}.event_types WHERE name = ANY ($7)))
                        AND tags @> $8
                      ORDER BY version LIMIT $3) AS e ON true
