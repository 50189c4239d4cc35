-- The columns of a table and their types; no row if the table does not exist.
SELECT name, type FROM pragma_table_info(?1)
