-- Decisions that depend on part of a stream or on types that a program does not know, transactions that check what they
-- have read, and tags that are given anew.

-- Keeps all others from appending until the transaction ends: for a transaction that checks something and relies on it.
CREATE FUNCTION {schema}.hold() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        -- What is read afterwards would not have what was appended while we waited.
        RAISE EXCEPTION 'a log is held at READ COMMITTED only' USING ERRCODE = 'ES001';
    END IF;
    PERFORM {schema}.lock_appends();
END $$;

-- Raises unless an append, in the statement that calls this after it and under its lock, was decided on what there is:
--   ES004  the log has other than p_types event types (NULL: however many)
--   ES005  an event of one of p_streams was appended after p_after and before p_first, with one of its p_names (none: any
--          name) and with all of its p_tags; both are arrays written as text
-- A stream is walked from its end, and no further than to what is not newer.
CREATE FUNCTION {schema}.still(
    p_types bigint, p_after bigint, p_streams text[], p_names text[], p_tags text[], p_first bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off
SET enable_seqscan = off AS $$
DECLARE
    newer record;
BEGIN
    IF p_types <> (SELECT count(*) FROM {schema}.event_types) THEN
        RAISE EXCEPTION 'the log has other event types' USING ERRCODE = 'ES004';
    END IF;
    FOR i IN 1 .. cardinality(p_streams) LOOP
        FOR newer IN SELECT e.position, e.type_key, e.tags FROM {schema}.events AS e
                      WHERE e.stream = p_streams[i] ORDER BY e.version DESC LOOP
            EXIT WHEN newer.position <= p_after;
            IF newer.position < p_first AND newer.tags @> p_tags[i]::text[] AND (
                   p_names[i] = '{}' OR EXISTS (SELECT FROM {schema}.event_types AS t
                                                 WHERE t.type_key = newer.type_key AND t.name = ANY (p_names[i]::text[]))) THEN
                RAISE EXCEPTION 'an event is in the way' USING ERRCODE = 'ES005';
            END IF;
        END LOOP;
    END LOOP;
    RETURN true;
END $$;

-- Gives events other tags, and removes the snapshots of states by tag. Tags are an index: nothing else of an event can be
-- changed so. Runs with the rights of the caller, who must own the log: the guard is taken off and put back in the one
-- transaction, which no other can see. Returns how many events have been changed.
--
-- p_*: an event, at its position under its id, its tags as they were read, and its tags from then on, arrays written as text.
-- An event whose tags are others by now stays as it is.
CREATE FUNCTION {schema}.retag(p_position bigint[], p_id uuid[], p_was text[], p_tags text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    changed bigint := 0;
BEGIN
    IF (cardinality(p_id), cardinality(p_was), cardinality(p_tags))
       <> (cardinality(p_position), cardinality(p_position), cardinality(p_position)) THEN
        RAISE EXCEPTION 'these are no events' USING ERRCODE = 'ES003';
    END IF;
    PERFORM {schema}.hold();
    IF cardinality(p_position) > 0 THEN
        ALTER TABLE {schema}.events DISABLE TRIGGER append_only;
        UPDATE {schema}.events AS e SET tags = n.tags::text[]
          FROM unnest(p_position, p_id, p_was, p_tags) AS n (position, id, was, tags)
         WHERE e.position = n.position AND e.event_id = n.id AND e.tags = n.was::text[] AND e.tags <> n.tags::text[];
        GET DIAGNOSTICS changed = ROW_COUNT;
        ALTER TABLE {schema}.events ENABLE ALWAYS TRIGGER append_only;
    END IF;
    DELETE FROM {schema}.snapshots AS s WHERE s.boundary ~ '^[a-z0-9_.]+:';
    RETURN changed;
END $$;

REVOKE ALL ON FUNCTION {schema}.hold, {schema}.still, {schema}.retag FROM PUBLIC;
