-- Positions with a tag, newest first: after ?1, up to ?2, at most ?3; tag ?4, of the types ?5 (a JSON array; NULL: of
-- all), with all the tags ?6 (a JSON array).
SELECT first.position FROM eventstore_tags AS first
 WHERE first.tag = ?4 AND first.position > ?1 AND first.position <= ?2
   AND (?5 IS NULL OR (SELECT e.type_key FROM eventstore_events AS e WHERE e.position = first.position)
                      IN (SELECT value FROM json_each(?5)))
   AND NOT EXISTS (SELECT 1 FROM json_each(?6) AS wanted
                    WHERE NOT EXISTS (SELECT 1 FROM eventstore_tags AS g
                                       WHERE g.tag = wanted.value AND g.position = first.position))
 ORDER BY first.position DESC
 LIMIT ?3
