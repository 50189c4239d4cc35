-- A table, with the optional columns that it lacks as nulls.
SELECT *, {nulls} FROM {table}
