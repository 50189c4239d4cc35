-- Writes the write-ahead log into the file and empties it, as far as no other connection needs it.
PRAGMA wal_checkpoint(TRUNCATE)
