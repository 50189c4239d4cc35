-- How many events match, of the first $3 after $1 and up to $2, and the last of them; items $4 to $7 as in `matching`.
SELECT count(*), max(m.position)
  FROM {schema}.matching($4, $5, $6, $7, $1, least($2, (SELECT coalesce(max(position), 0) FROM {schema}.events)), $3) AS m (position)
