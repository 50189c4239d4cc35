-- Other tags for an event: at position ?1, with id ?2, the tags ?3 (a JSON array).
UPDATE eventstore_events SET tags = ?3 WHERE position = ?1 AND event_id = ?2 AND tags <> ?3
