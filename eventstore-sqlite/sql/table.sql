-- The columns of a table, in order; none if there is no such table.
SELECT name, type FROM pragma_table_info(?1) ORDER BY cid
