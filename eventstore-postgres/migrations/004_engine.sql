-- Checkpoints: found in a few pages, however often they have moved.
--
-- A checkpoint moves thousands of times a second. While any snapshot is held on the server, by a dump or a forgotten
-- transaction, none of its earlier versions can be removed: the table grows, and the index names every page that has a
-- version. So a checkpoint is looked up backwards: of equal keys an index has the highest page last, and while nothing
-- can be removed the newest version is in the highest page. And never by reading the table: its size when a statement
-- was planned says nothing of its size later, so the functions forbid it.

-- The shards of a projection, or of all, from the last one to the first.
CREATE FUNCTION {schema}.shards(p_projection text) RETURNS SETOF {schema}.checkpoints
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
DECLARE
    at {schema}.checkpoints;
BEGIN
    IF p_projection IS NULL THEN
        SELECT c.* INTO at FROM {schema}.checkpoints AS c ORDER BY c.projection DESC, c.from_slot DESC LIMIT 1;
    ELSE
        SELECT c.* INTO at FROM {schema}.checkpoints AS c
         WHERE c.projection >= p_projection AND c.projection <= p_projection
         ORDER BY c.projection DESC, c.from_slot DESC LIMIT 1;
    END IF;
    WHILE FOUND LOOP
        RETURN NEXT at;
        SELECT c.* INTO at FROM {schema}.checkpoints AS c
         WHERE (c.projection, c.from_slot) < (at.projection, at.from_slot) AND c.projection >= coalesce(p_projection, '')
         ORDER BY c.projection DESC, c.from_slot DESC LIMIT 1;
    END LOOP;
END $$;

-- A shard, locked until the transaction ends; no row if there is no such shard.
CREATE FUNCTION {schema}.lock_shard(p_projection text, p_from int, p_to int) RETURNS SETOF {schema}.checkpoints
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT c.* FROM {schema}.checkpoints AS c
     WHERE c.projection = p_projection AND c.from_slot BETWEEN p_from AND p_from AND c.to_slot = p_to
     ORDER BY c.from_slot DESC LIMIT 1
       FOR NO KEY UPDATE;
END $$;

-- All shards of a projection, locked until the transaction ends, from the first one to the last.
CREATE FUNCTION {schema}.lock_shards(p_projection text) RETURNS SETOF {schema}.checkpoints
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at {schema}.checkpoints;
BEGIN
    FOR at IN SELECT s.* FROM {schema}.shards(p_projection) AS s ORDER BY s.from_slot LOOP
        RETURN QUERY SELECT l.* FROM {schema}.lock_shard(at.projection, at.from_slot, at.to_slot) AS l;
    END LOOP;
END $$;

-- Moves a checkpoint forward, never back, to an event that is in the log. Says whether that one is, if one is named.
CREATE FUNCTION {schema}.advance(p_projection text, p_from int, p_to int, p_position bigint, p_event uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
DECLARE
    place tid;
    before bigint;
BEGIN
    IF p_event IS NOT NULL
       AND NOT EXISTS (SELECT FROM {schema}.events AS e WHERE e.position = p_position AND e.event_id = p_event) THEN
        RETURN false;
    END IF;
    SELECT c.ctid, c.position INTO place, before FROM {schema}.checkpoints AS c
     WHERE c.projection = p_projection AND c.from_slot BETWEEN p_from AND p_from AND c.to_slot = p_to
     ORDER BY c.from_slot DESC LIMIT 1
       FOR NO KEY UPDATE;
    IF before < p_position THEN
        -- Locked, it stays where it is.
        UPDATE {schema}.checkpoints SET position = p_position, event_id = p_event, updated_at = clock_timestamp()
         WHERE ctid = place;
    END IF;
    RETURN true;
END $$;

-- Moves a shard from a position and the event there, at an epoch of an owner, to another position and the event there. Says
-- whether it did: not if the shard stands otherwise, or an event is not in the log. A transaction that has locked the shard is
-- not waited for: the statement that calls this holds the lock of a read model's table, which that transaction may want.
CREATE FUNCTION {schema}.step(
    p_projection text, p_from int, p_to int, p_before bigint, p_event_before uuid, p_epoch bigint, p_owner uuid,
    p_position bigint, p_event uuid)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
DECLARE
    place tid;
    stands boolean;
BEGIN
    SELECT c.ctid,
           c.position = p_before AND c.event_id IS NOT DISTINCT FROM p_event_before
           AND c.epoch = p_epoch AND c.owner IS NOT DISTINCT FROM p_owner
      INTO place, stands
      FROM {schema}.checkpoints AS c
     WHERE c.projection = p_projection AND c.from_slot BETWEEN p_from AND p_from AND c.to_slot = p_to
     ORDER BY c.from_slot DESC LIMIT 1
       FOR NO KEY UPDATE SKIP LOCKED;
    IF stands IS NOT TRUE THEN
        RETURN false;
    END IF;
    IF p_event_before IS NOT NULL
       AND NOT EXISTS (SELECT FROM {schema}.events AS e WHERE e.position = p_before AND e.event_id = p_event_before) THEN
        RETURN false;
    END IF;
    IF p_event IS NOT NULL
       AND NOT EXISTS (SELECT FROM {schema}.events AS e WHERE e.position = p_position AND e.event_id = p_event) THEN
        RETURN false;
    END IF;
    -- Locked, it stays where it is.
    UPDATE {schema}.checkpoints SET position = p_position, event_id = p_event, updated_at = clock_timestamp()
     WHERE ctid = place AND position < p_position;
    RETURN true;
END $$;
