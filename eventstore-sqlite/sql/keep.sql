-- Keeps a snapshot. A stored one of the same shape that is as new stays, unless its checksum is ?10.
INSERT INTO eventstore_snapshots (boundary, kind, shape, version, position, recorded_at, event_id, checksum, state)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
    ON CONFLICT (boundary, kind) DO UPDATE
   SET shape = excluded.shape, version = excluded.version, position = excluded.position,
       recorded_at = excluded.recorded_at, event_id = excluded.event_id, checksum = excluded.checksum,
       state = excluded.state
 WHERE eventstore_snapshots.shape <> excluded.shape OR eventstore_snapshots.position < excluded.position
    OR eventstore_snapshots.checksum = ?10
