-- Changes the tags of an event at position ?1 with id ?2 from ?4 to ?3 (JSON arrays).
UPDATE eventstore_events SET tags = ?3 WHERE position = ?1 AND event_id = ?2 AND json(tags) = ?4 AND ?3 <> ?4
