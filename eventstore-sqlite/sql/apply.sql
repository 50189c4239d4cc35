-- Notes that a migration was applied.
INSERT INTO eventstore_migrations (version, checksum, applied_at, works_from) VALUES (?1, ?2, ?3, ?4)
