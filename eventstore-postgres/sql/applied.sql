-- The migrations that have been applied.
SELECT version, checksum FROM {schema}.migrations ORDER BY version
