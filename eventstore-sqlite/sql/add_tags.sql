-- Indexes the tags of one event, each once.
INSERT INTO eventstore_tags (tag, position) SELECT DISTINCT value, ?1 FROM json_each(?2)
