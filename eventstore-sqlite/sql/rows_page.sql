-- The first ?1 rows that match in the order of a column, unsorted; part of `rows_where`. Rows with a value come first,
-- so one index serves both directions; rows with null are read only if there are too few others.
(WITH valued AS MATERIALIZED
  (SELECT key, {columns} FROM {from} WHERE {conditions} AND {valued} ORDER BY {by} LIMIT ?1)
SELECT * FROM valued
 UNION ALL
SELECT * FROM
  (SELECT key, {columns} FROM {from}
    WHERE {conditions} AND {null} AND (SELECT count(*) FROM valued) < ?1
    ORDER BY key LIMIT ?1))
