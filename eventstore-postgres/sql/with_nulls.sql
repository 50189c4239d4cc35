-- A table with the columns it lacks, which a row may be without: null in every row.
SELECT *, {nulls} FROM {table}
