-- The rows with these keys, as long as a shard is where its node believes ($3 to $9), in one snapshot with its checkpoint;
-- last, without a key, the types of the table's columns and whether the shard is there.
WITH held AS MATERIALIZED (
    SELECT EXISTS (
        SELECT FROM {schema}.checkpoints
         WHERE projection = $3 AND from_slot = $4 AND to_slot = $5 AND position = $6
           AND event_id IS NOT DISTINCT FROM $7 AND epoch = $8 AND owner IS NOT DISTINCT FROM $9
    ) AS held
)
SELECT t.key, (SELECT row_to_json("~row")::text FROM (SELECT {columns}) AS "~row"), true
  FROM (SELECT DISTINCT key COLLATE "C" FROM unnest($2::text[]) AS asked (key)) AS n (key)
 CROSS JOIN LATERAL (SELECT * FROM {from} AS t WHERE t.key = n.key LIMIT 1) AS t
 WHERE (SELECT held FROM held)
 UNION ALL
SELECT NULL, json_object_agg(attname, format_type(atttypid, atttypmod))::text, (SELECT held FROM held)
  FROM pg_catalog.pg_attribute
 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
 ORDER BY 1
