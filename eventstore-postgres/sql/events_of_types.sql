-- A page of the events of some types, and the head, in one snapshot: after $1, up to $2, at most $3; of the names $4
-- (none: of all), of the category $5 (NULL: of all). If enough of them are near, the statement scans the log from $1,
-- because a look-up by position takes five times as long as reading past an event; otherwise it uses `matching`. Enough
-- are near if all types are asked for, or if their index finds $3 events within reach. "+ 0" keeps the planner from
-- sorting a table that was not analyzed yet.
WITH asked AS MATERIALIZED (
    SELECT log.head, least($2, log.head) AS until, 4 * least($3, 1000000) AS reach,
           ARRAY(SELECT t.type_key FROM {schema}.event_types AS t
                  WHERE ($4 = '{}' OR t.name = ANY ($4)) AND ($5 IS NULL OR t.category = $5)) AS types,
           (SELECT count(*) FROM {schema}.event_types) AS every
      FROM (SELECT coalesce(max(position), 0) AS head FROM {schema}.events) AS log),
way AS MATERIALIZED (
    SELECT a.head, a.until, a.types, a.every, CASE WHEN a.until - $1 <= a.reach THEN a.until ELSE $1 + a.reach END AS near,
           a.until - $1 <= a.reach OR cardinality(a.types) = a.every OR $3 <= (
               SELECT count(*) FROM unnest(a.types) AS t (type_key)
                CROSS JOIN LATERAL (SELECT FROM {schema}.events AS e
                                     WHERE e.type_key = t.type_key AND e.position > $1 AND e.position <= $1 + a.reach
                                     ORDER BY e.position LIMIT $3) AS one) AS is_near
      FROM asked AS a)
SELECT way.head, e.position, e.version, e.recorded_at, e.occurred_at, e.event_id, e.type_key, e.schema, e.stream, e.tags, e.metadata, e.payload,
       way.every AS types
  FROM way
  LEFT JOIN LATERAL (
      (SELECT * FROM {schema}.events
        WHERE way.is_near AND position > $1 AND position <= way.near AND type_key + 0 = ANY (way.types)
        ORDER BY position LIMIT $3)
       UNION ALL
      (SELECT found.* FROM {schema}.matching(ARRAY[$4::text], '{"{}"}', ARRAY[$5], '{NULL}', $1, way.until, $3) AS m (position)
         JOIN {schema}.events AS found ON found.position = m.position
        WHERE NOT way.is_near)) AS e ON true
