-- The first of the streams $1 that is not at its version in $2, and the version it is at.
SELECT u.stream, coalesce(last.version, 0)
  FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS u (stream, version, i)
  LEFT JOIN LATERAL (SELECT e.version FROM {schema}.events AS e
                      WHERE e.stream = u.stream ORDER BY e.version DESC LIMIT 1) AS last ON true
 WHERE coalesce(last.version, 0) <> u.version
 ORDER BY u.i LIMIT 1
