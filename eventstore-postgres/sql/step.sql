-- A step of a shard $1, $2, $3: from position $4 and the event $5 there, at epoch $6 of the owner $7, to position $8 and the
-- event $9 there. Writes all or nothing, and says which; $10: its commit does not wait for the disk. Whoever has locked the
-- shard is not waited for: he may want the table, which this has by then.
WITH place AS MATERIALIZED (
    SELECT FROM {schema}.checkpoints
     WHERE projection = $1 AND from_slot = $2 AND to_slot = $3
       AND position = $4 AND event_id IS NOT DISTINCT FROM $5 AND epoch = $6 AND owner = $7
       FOR NO KEY UPDATE SKIP LOCKED
), stands AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM place)
       AND ($5::uuid IS NULL OR EXISTS (SELECT FROM {schema}.events WHERE position = $4 AND event_id = $5))
       AND ($9::uuid IS NULL OR EXISTS (SELECT FROM {schema}.events WHERE position = $8 AND event_id = $9)) AS so
), moved AS (
    UPDATE {schema}.checkpoints SET position = $8, event_id = $9, updated_at = clock_timestamp()
     WHERE projection = $1 AND from_slot = $2 AND to_slot = $3 AND position < $8 AND (SELECT so FROM stands)
){changes}
SELECT so, CASE WHEN $10 THEN set_config('synchronous_commit', 'off', true) END FROM stands
