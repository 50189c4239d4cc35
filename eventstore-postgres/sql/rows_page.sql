-- The first $2 rows that match in the order of a column, unsorted; part of `rows_where`. Rows with a value come first,
-- so one index serves both directions; rows with null are read only if there are too few others.
(WITH valued AS MATERIALIZED
  (SELECT t.* FROM {from} AS t WHERE {conditions} AND {valued} ORDER BY {by} LIMIT $2)
SELECT * FROM valued
 UNION ALL
(SELECT t.* FROM {from} AS t
  WHERE {conditions} AND {null} AND (SELECT count(*) FROM valued) < $2
  ORDER BY t.key LIMIT $2))
