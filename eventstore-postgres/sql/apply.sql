-- A migration that has just been applied.
INSERT INTO {schema}.migrations (version, checksum) VALUES ($1, $2)
