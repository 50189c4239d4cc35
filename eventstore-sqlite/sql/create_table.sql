-- A read model's table.
CREATE TABLE {table} (key TEXT NOT NULL PRIMARY KEY, {columns}) STRICT, WITHOUT ROWID
