-- The first ?1 rows that match in the order of a column, in no order. Rows with a value come first, so an index on the
-- column serves both directions; rows with null are read only if the others are too few.
(WITH valued AS MATERIALIZED
  (SELECT key, {columns} FROM {from} WHERE {conditions} AND {valued} ORDER BY {by} LIMIT ?1)
SELECT * FROM valued
 UNION ALL
SELECT * FROM
  (SELECT key, {columns} FROM {from}
    WHERE {conditions} AND {null} AND (SELECT count(*) FROM valued) < ?1
    ORDER BY key LIMIT ?1))
