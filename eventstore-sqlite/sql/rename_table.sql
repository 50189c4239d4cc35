-- Renames a table.
ALTER TABLE {table} RENAME TO {to};
