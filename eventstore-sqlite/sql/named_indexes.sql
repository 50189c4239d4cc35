-- The indexes of a table that were made by a statement of their own.
SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?1 AND sql IS NOT NULL
