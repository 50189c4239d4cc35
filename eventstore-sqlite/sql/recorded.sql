-- The first of these event ids, given as a JSON array of hexadecimal texts, that is recorded already.
SELECT event_id, position FROM eventstore_events
 WHERE event_id IN (SELECT unhex(value) FROM json_each(?1)) ORDER BY position LIMIT 1
