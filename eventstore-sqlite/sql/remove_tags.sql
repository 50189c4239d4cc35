-- Removes the tags of one event from the index.
DELETE FROM eventstore_tags WHERE position = ?1
