-- Notes that a migration was applied.
INSERT INTO {schema}.migrations (version, checksum, works_from) VALUES ($1, $2, $3)
