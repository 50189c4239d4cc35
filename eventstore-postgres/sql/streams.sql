-- A page of the streams of a category, each with its last event: names after $1 and before $2, at most $3. The
-- recursion steps along the index of streams from one name to the next, so the number of events does not matter.
WITH RECURSIVE walk (stream, n) AS (
    (SELECT e.stream, 1::bigint FROM {schema}.events AS e
      WHERE e.stream > $1 AND e.stream < $2 AND $3 > 0 ORDER BY e.stream LIMIT 1)
    UNION ALL
    SELECT next.stream, walk.n + 1 FROM walk
     CROSS JOIN LATERAL (SELECT e.stream FROM {schema}.events AS e
                          WHERE e.stream > walk.stream AND e.stream < $2 ORDER BY e.stream LIMIT 1) AS next
     WHERE walk.n < $3)
SELECT walk.stream, last.version, last.position FROM walk
 CROSS JOIN LATERAL (SELECT e.version, e.position FROM {schema}.events AS e
                      WHERE e.stream = walk.stream ORDER BY e.version DESC LIMIT 1) AS last
 ORDER BY walk.stream
