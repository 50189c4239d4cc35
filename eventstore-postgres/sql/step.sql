-- A step of a shard $1, $2, $3: from position $4 and the event $5 there, at epoch $6 of the owner $7, to position $8 and the
-- event $9 there. Writes all or nothing, and says which; $10: its commit does not wait for the disk.
WITH stands AS MATERIALIZED (
    SELECT {schema}.step($1, $2, $3, $4, $5, $6, $7, $8, $9) AS so
){changes}
SELECT so, CASE WHEN $10 THEN set_config('synchronous_commit', 'off', true) END FROM stands
