-- Readers do not wait for the writer.
PRAGMA journal_mode = WAL
