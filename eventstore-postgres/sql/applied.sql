-- The migrations that have been applied.
SELECT version, checksum, applied_at FROM {schema}.migrations ORDER BY version
