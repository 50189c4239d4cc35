-- Inserts one event, at a position that was taken under the write lock.
INSERT INTO eventstore_events
    (position, version, recorded_at, occurred_at, type_key, schema, event_id, stream, tags, metadata, payload)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
