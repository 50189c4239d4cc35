-- The columns that indexes of a table begin with.
SELECT c.name
  FROM pragma_index_list(?1) AS i
 CROSS JOIN pragma_index_info(i.name) AS c
 WHERE c.seqno = 0
