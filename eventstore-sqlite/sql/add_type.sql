-- A type of event seen for the first time.
INSERT INTO eventstore_types (category, name) VALUES (?1, ?2) RETURNING type_key
