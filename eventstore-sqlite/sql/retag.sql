-- Other tags for an event: at position ?1, with id ?2, the tags ?3 instead of ?4 (JSON arrays).
UPDATE eventstore_events SET tags = ?3 WHERE position = ?1 AND event_id = ?2 AND json(tags) = ?4 AND ?3 <> ?4
