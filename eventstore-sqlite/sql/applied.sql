-- The migrations that have been applied; the first release did not say from which release on each works.
SELECT * FROM eventstore_migrations ORDER BY version
