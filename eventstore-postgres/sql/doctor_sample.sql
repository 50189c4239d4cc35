-- Looks up at most 200 positions, evenly spread from 1 to the head: how many should exist, how many do, and how often
-- time goes back from one to the next. Counting all would read the whole log.
SELECT coalesce(max(head.last), 0) AS head, count(wanted.position) AS wanted, count(wanted.found) AS found,
       count(*) FILTER (WHERE wanted.recorded_at < wanted.earlier) AS back
  FROM (SELECT max(position) AS last FROM {schema}.events) AS head
  LEFT JOIN LATERAL (
      SELECT n.position, e.position AS found, e.recorded_at,
             max(e.recorded_at) OVER (ORDER BY n.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS earlier
        FROM (SELECT DISTINCT 1 + (i * (head.last - 1)) / 199 AS position FROM generate_series(0, 199) AS i) AS n
        LEFT JOIN {schema}.events AS e ON e.position = n.position
       WHERE head.last > 0) AS wanted ON true
