-- The boundaries that have a snapshot of a kind, the latest first, at most ?2.
SELECT boundary FROM eventstore_snapshots WHERE kind = ?1 ORDER BY position DESC, boundary LIMIT ?2
