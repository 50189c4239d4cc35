-- The rows that match, in order, at most ?1 after the first ?2.
SELECT key, {columns} FROM {from} WHERE {conditions} ORDER BY {order} LIMIT ?1 OFFSET ?2
