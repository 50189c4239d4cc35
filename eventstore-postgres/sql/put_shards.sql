-- Writes the new shards of a projection. Unchanged ones are not touched.
INSERT INTO {schema}.checkpoints (projection, from_slot, to_slot, position, event_id, epoch, owner)
SELECT $1, * FROM unnest($2::int[], $3::int[], $4::bigint[], $5::uuid[], $6::bigint[], $7::uuid[])
    ON CONFLICT (projection, from_slot) DO UPDATE
   SET to_slot = excluded.to_slot, position = excluded.position, event_id = excluded.event_id, epoch = excluded.epoch,
       owner = excluded.owner, updated_at = excluded.updated_at
 WHERE (checkpoints.to_slot, checkpoints.position, checkpoints.event_id, checkpoints.epoch, checkpoints.owner)
    IS DISTINCT FROM (excluded.to_slot, excluded.position, excluded.event_id, excluded.epoch, excluded.owner)
