-- Creates the table of a read model. It is not STRICT, since STRICT allows only SQLite's own types; the store checks
-- values itself.
CREATE TABLE {table} (key TEXT NOT NULL PRIMARY KEY, {columns}) WITHOUT ROWID
