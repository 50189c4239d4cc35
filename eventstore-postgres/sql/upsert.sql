-- Writes rows, whether they are there or not: keys, and a JSON array with an object for each.
INSERT INTO {table} (key, {columns})
SELECT r.*
  FROM ROWS FROM (unnest($1::text[]), json_to_recordset($2::json) AS ({types})) AS r
    ON CONFLICT (key) DO UPDATE SET {updates}
