-- A fragment of `step`: writes the rows with the keys $11 from the JSON array $12, if the step is done.
, written AS (
    INSERT INTO {table} (key, {columns})
    SELECT r.*
      FROM ROWS FROM (unnest($11::text[]), json_to_recordset($12::json) AS ({types})) AS r
     WHERE (SELECT so FROM stands)
        ON CONFLICT (key) DO UPDATE SET {updates}
)
