-- Writes rows, whether they are there or not: keys, and a JSON object for each.
INSERT INTO {table} (key, {columns})
SELECT n.key, {values}
  FROM unnest($1::text[], $2::text[]) AS n (key, row)
 CROSS JOIN LATERAL json_populate_record(NULL::{table}, n.row::json) AS r
    ON CONFLICT (key) DO UPDATE SET {updates}
