-- The migrations that have been applied.
SELECT version, checksum FROM eventstore_migrations ORDER BY version
