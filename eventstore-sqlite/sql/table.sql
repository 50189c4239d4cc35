-- The columns of a table; none if there is no such table.
SELECT name, type FROM pragma_table_info(?1)
