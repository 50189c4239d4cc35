-- Writes rows and advances a checkpoint, all or nothing, and returns whether it did: shard $1, $2, $3, from position
-- $4, its event $5, epoch $6 and owner $7, to position $8 and its event $9. With $10, the commit does not wait for the
-- disk. Between the two parts come the fragments `step_upsert` and `step_delete`, each if there is something to write;
-- they have the parameters $11 to $13.
WITH stands AS MATERIALIZED (
    SELECT {schema}.step($1, $2, $3, $4, $5, $6, $7, $8, $9) AS so
){changes}
SELECT so, CASE WHEN $10 THEN set_config('synchronous_commit', 'off', true) END FROM stands
