-- Writes the write-ahead log into the file and empties it, unless another connection still needs it.
PRAGMA wal_checkpoint(TRUNCATE)
