-- The first $2 rows that match in the order of a column, in no order. Rows with a value come first, so an index on the
-- column serves both directions; rows with null are read only if the others are too few.
(WITH valued AS MATERIALIZED
  (SELECT t.* FROM {from} AS t WHERE {conditions} AND {valued} ORDER BY {by} LIMIT $2)
SELECT * FROM valued
 UNION ALL
(SELECT t.* FROM {from} AS t
  WHERE {conditions} AND {null} AND (SELECT count(*) FROM valued) < $2
  ORDER BY t.key LIMIT $2))
