-- The tags of one event are removed from their index.
DELETE FROM eventstore_tags WHERE position = ?1
