-- Counts the first $3 matching events after $1 and up to $2, and returns the last of them. Items $4 to $7 as in
-- `matching`.
SELECT count(*), max(m.position)
  FROM {schema}.matching($4, $5, $6, $7, $1, least($2, (SELECT coalesce(max(position), 0) FROM {schema}.events)), $3) AS m (position)
