-- A page of the streams of a category, each with its last event: names after ?1 and before ?2, at most ?3. The
-- recursion steps along the index of streams from one name to the next, so the number of events does not matter.
WITH RECURSIVE walk (stream, n) AS (
    SELECT min(stream), 1 FROM eventstore_events WHERE stream > ?1 AND stream < ?2
    UNION ALL
    SELECT (SELECT min(e.stream) FROM eventstore_events AS e WHERE e.stream > walk.stream AND e.stream < ?2), walk.n + 1
      FROM walk WHERE walk.stream IS NOT NULL AND walk.n < ?3
)
SELECT e.stream, e.version, e.position
  FROM walk
 CROSS JOIN eventstore_events AS e
    ON e.stream = walk.stream
   AND e.version = (SELECT max(version) FROM eventstore_events WHERE stream = walk.stream)
 WHERE walk.n <= ?3
 ORDER BY e.stream
