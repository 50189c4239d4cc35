-- Drops a table.
DROP TABLE IF EXISTS {table};
