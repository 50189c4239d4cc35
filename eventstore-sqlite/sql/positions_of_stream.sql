-- Positions in one stream: after ?1, up to ?2, at most ?3; stream ?4, of the types ?5 (a JSON array; NULL: of all),
-- with all the tags ?6 (a JSON array), after version ?7, up to version ?8.
SELECT e.position FROM eventstore_events AS e
 WHERE e.stream = ?4 AND e.version > ?7 AND e.version <= ?8 AND e.position > ?1 AND e.position <= ?2
   AND (?5 IS NULL OR e.type_key IN (SELECT value FROM json_each(?5)))
   AND NOT EXISTS (SELECT 1 FROM json_each(?6) AS wanted
                    WHERE NOT EXISTS (SELECT 1 FROM eventstore_tags AS g
                                       WHERE g.tag = wanted.value AND g.position = e.position))
 ORDER BY e.version
 LIMIT ?3
