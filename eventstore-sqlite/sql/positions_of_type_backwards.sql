-- Positions of one type of event, newest first: after ?1, up to ?2, at most ?3; type ?4.
SELECT position FROM eventstore_events
 WHERE type_key = ?4 AND position > ?1 AND position <= ?2
 ORDER BY position DESC
 LIMIT ?3
