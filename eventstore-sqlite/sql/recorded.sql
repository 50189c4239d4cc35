-- The first of these event ids (a JSON array of hexadecimal texts) that is recorded, and its position.
SELECT event_id, position FROM eventstore_events
 WHERE event_id IN (SELECT unhex(value) FROM json_each(?1)) ORDER BY position LIMIT 1
