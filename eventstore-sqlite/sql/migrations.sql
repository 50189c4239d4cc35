-- Creates the table of migrations.
CREATE TABLE IF NOT EXISTS eventstore_migrations (
    version    INTEGER NOT NULL PRIMARY KEY,
    checksum   TEXT NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT
