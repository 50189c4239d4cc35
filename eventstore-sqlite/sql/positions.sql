-- Positions of any events: after ?1, up to ?2, at most ?3.
SELECT position FROM eventstore_events
 WHERE position > ?1 AND position <= ?2
 ORDER BY position
 LIMIT ?3
