-- The snapshot of a kind kept for a boundary.
SELECT shape, version, position, recorded_at, event_id, checksum, state
  FROM eventstore_snapshots WHERE boundary = ?1 AND kind = ?2
