-- A read model's table. Not STRICT, which knows no types but its own; what is written is checked before.
CREATE TABLE {table} (key TEXT NOT NULL PRIMARY KEY, {columns}) WITHOUT ROWID
