-- Adds a new event type.
INSERT INTO eventstore_types (category, name) VALUES (?1, ?2) RETURNING type_key
