-- A read model's table.
CREATE TABLE {table} (key text COLLATE "C" NOT NULL PRIMARY KEY, {columns})
