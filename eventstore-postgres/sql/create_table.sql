-- Creates the table of a read model.
CREATE TABLE {table} (key text COLLATE "C" NOT NULL PRIMARY KEY, {columns})
