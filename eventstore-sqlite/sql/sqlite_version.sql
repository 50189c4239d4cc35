-- The release of SQLite.
SELECT sqlite_version()
