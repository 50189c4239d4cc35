-- Writes rows, new or existing: the keys $1, and a JSON array $2 with an object for each.
INSERT INTO {table} (key, {columns})
SELECT r.*
  FROM ROWS FROM (unnest($1::text[]), json_to_recordset($2::json) AS ({types})) AS r
    ON CONFLICT (key) DO UPDATE SET {updates}
