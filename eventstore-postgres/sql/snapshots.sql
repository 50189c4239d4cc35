-- The boundaries that have a snapshot of a kind, the latest first, at most $2.
SELECT boundary FROM {schema}.snapshots WHERE kind = $1 ORDER BY position DESC, boundary LIMIT $2
