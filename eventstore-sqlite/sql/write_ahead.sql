-- Turns the write-ahead log on, so that readers do not wait for the writer.
PRAGMA journal_mode = WAL
