-- The log, the checkpoints, and a view for people. `{schema}` is the schema of the log.
--
-- Why a reader never skips an event: every writer goes through `append`, which takes a lock that lives as long as its
-- transaction, and gives out positions only while it holds it. Whoever gets the lock next sees everything the one
-- before has committed, so what can be seen is always the log from 1 to some position, without a hole. The whole
-- argument is in docs/postgres.md.

CREATE TABLE {schema}.event_types (
    type_key int  GENERATED ALWAYS AS IDENTITY CONSTRAINT event_types_pk PRIMARY KEY,
    category text COLLATE "C" NOT NULL,
    name     text COLLATE "C" NOT NULL,
    CONSTRAINT event_types_name UNIQUE (category, name)
);

CREATE TABLE {schema}.events (
    position    bigint      NOT NULL CONSTRAINT events_position CHECK (position > 0),
    version     bigint      NOT NULL CONSTRAINT events_version CHECK (version > 0),
    recorded_at timestamptz NOT NULL,                    -- the server's clock; never goes back along positions
    occurred_at timestamptz NOT NULL,
    event_id    uuid        NOT NULL,
    type_key    int         NOT NULL,
    schema      int         NOT NULL,
    stream      text COLLATE "C" NOT NULL,
    tags        text[] COLLATE "C" NOT NULL,
    metadata    bytea       NOT NULL,
    payload     bytea       NOT NULL,                    -- the exact bytes; the view `log` shows JSON
    CONSTRAINT events_pk PRIMARY KEY (position) WITH (fillfactor = 100),
    CONSTRAINT events_stream UNIQUE (stream, version),
    CONSTRAINT events_event_id UNIQUE (event_id)
) WITH (fillfactor = 100,
        autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_vacuum_insert_threshold = 50000,
        autovacuum_analyze_scale_factor = 0.02, autovacuum_freeze_min_age = 0);

-- Reads by event type and by category.
CREATE INDEX events_type ON {schema}.events (type_key, position);
-- Reads by tag. Without fastupdate: its list would be flushed by an unlucky append, under the lock.
CREATE INDEX events_tags ON {schema}.events USING gin (tags) WITH (fastupdate = off) WHERE tags <> '{}';

CREATE FUNCTION {schema}.append_only() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% on %.%: the event log is append-only', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'ES010';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {schema}.events
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.append_only();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON {schema}.events
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.append_only();
ALTER TABLE {schema}.events ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE {schema}.events ENABLE ALWAYS TRIGGER append_only_truncate;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {schema}.event_types
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.append_only();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON {schema}.event_types
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.append_only();
ALTER TABLE {schema}.event_types ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE {schema}.event_types ENABLE ALWAYS TRIGGER append_only_truncate;

-- The keys of event types, given out at first use. Not under the append lock.
CREATE FUNCTION {schema}.type_keys(p_categories text[], p_names text[])
RETURNS TABLE (type_key int, category text, name text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF current_setting('lock_timeout') = '0' THEN
        -- Who waits for another to commit the same type may be waiting for itself.
        PERFORM set_config('lock_timeout', '10s', true);
    END IF;
    INSERT INTO {schema}.event_types (category, name)
    SELECT DISTINCT n.category, n.name FROM unnest(p_categories, p_names) AS n (category, name)
     ORDER BY n.category, n.name                         -- two who add the same wait for each other one way round
    ON CONFLICT DO NOTHING;
    -- Another statement: it sees what others have just added.
    RETURN QUERY SELECT t.type_key, t.category, t.name
                   FROM unnest(p_categories, p_names) AS n (category, name)
                   JOIN {schema}.event_types AS t ON t.category = n.category AND t.name = n.name;
END $$;

-- The positions, at most `p_limit` in order, of the events in (p_after, p_until] that match any of the items. An item
-- is one place of the four arrays: event names and tags (each an array written as text), a category and a key (or
-- NULL). Names and categories are resolved here and now: a type may have been added a moment ago.
CREATE FUNCTION {schema}.matching(
    p_names text[], p_tags text[], p_categories text[], p_keys text[], p_after bigint, p_until bigint, p_limit bigint)
RETURNS SETOF bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    found_positions bigint[] := '{}';
    item_names text[]; item_tags text[]; item_types int[]; item_streams text[];
BEGIN
    FOR i IN 1 .. cardinality(p_names) LOOP
        item_names := p_names[i]::text[];
        item_tags := p_tags[i]::text[];
        item_types := NULL;                              -- of all types
        IF item_names <> '{}' OR p_categories[i] IS NOT NULL THEN
            item_types := ARRAY(SELECT t.type_key FROM {schema}.event_types AS t
                                 WHERE (item_names = '{}' OR t.name = ANY (item_names))
                                   AND (p_categories[i] IS NULL OR t.category = p_categories[i]));
            CONTINUE WHEN item_types = '{}';
        END IF;
        item_streams := NULL;                            -- in all streams
        IF p_keys[i] IS NOT NULL THEN
            item_streams := ARRAY(SELECT DISTINCT t.category || '-' || p_keys[i] FROM {schema}.event_types AS t
                                   WHERE item_types IS NULL OR t.type_key = ANY (item_types));
        END IF;
        -- Few events: look at each. With tags also where it is not so few, since their index knows no order.
        IF p_until - p_after <= (CASE WHEN item_tags <> '{}' AND item_streams IS NULL THEN 20000 ELSE 2000 END) THEN
            found_positions := found_positions || ARRAY(
                SELECT e.position FROM {schema}.events AS e
                 WHERE e.position > p_after AND e.position <= p_until
                   AND (item_types IS NULL OR e.type_key = ANY (item_types))
                   AND (item_streams IS NULL OR e.stream = ANY (item_streams))
                   AND e.tags @> item_tags
                 ORDER BY e.position LIMIT p_limit);
        ELSIF item_streams IS NOT NULL THEN
            -- "+ 0": else it reads all of the primary key, to intersect it with the few of the stream.
            found_positions := found_positions || ARRAY(
                SELECT one.position FROM unnest(item_streams) AS s (stream)
                 CROSS JOIN LATERAL (SELECT e.position FROM {schema}.events AS e
                                      WHERE e.stream = s.stream AND e.position + 0 > p_after AND e.position + 0 <= p_until
                                        AND (item_types IS NULL OR e.type_key = ANY (item_types))
                                        AND e.tags @> item_tags
                                      ORDER BY e.version LIMIT p_limit) AS one
                 ORDER BY one.position LIMIT p_limit);
        ELSIF item_tags <> '{}' THEN
            -- Materialized: else the limit tempts the planner to walk the log. "+ 0" as above.
            found_positions := found_positions || ARRAY(
                WITH tagged AS MATERIALIZED (
                    SELECT e.position FROM {schema}.events AS e
                     WHERE e.tags <> '{}' AND e.tags @> item_tags
                       AND e.position + 0 > p_after AND e.position + 0 <= p_until
                       AND (item_types IS NULL OR e.type_key = ANY (item_types)))
                SELECT tagged.position FROM tagged ORDER BY tagged.position LIMIT p_limit);
        ELSIF item_types IS NOT NULL THEN
            -- Rows are compared, which only the index on (type, position) can do: the primary key has the same order,
            -- and would throw away all that is of other types.
            found_positions := found_positions || ARRAY(
                SELECT one.position FROM unnest(item_types) AS t (type_key)
                 CROSS JOIN LATERAL (SELECT e.position FROM {schema}.events AS e
                                      WHERE (e.type_key, e.position) > (t.type_key, p_after)
                                        AND (e.type_key, e.position) <= (t.type_key, p_until)
                                      ORDER BY e.type_key, e.position LIMIT p_limit) AS one
                 ORDER BY one.position LIMIT p_limit);
        ELSE
            found_positions := found_positions || ARRAY(
                SELECT e.position FROM {schema}.events AS e
                 WHERE e.position > p_after AND e.position <= p_until ORDER BY e.position LIMIT p_limit);
        END IF;
    END LOOP;
    RETURN QUERY SELECT DISTINCT place FROM unnest(found_positions) AS place ORDER BY place LIMIT p_limit;
END $$;

-- Raises unless a transaction may append, with these keys of event types. A key may be of a type whose registration was
-- rolled back, or lost with the end of the log in a failover: then it may be another's by now.
CREATE FUNCTION {schema}.may_append(t_key int[], t_category text[], t_name text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$                          -- only called by functions that have set the search path
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        -- A snapshot from before the lock would not see what was appended while we waited for it.
        RAISE EXCEPTION 'events are appended at READ COMMITTED only' USING ERRCODE = 'ES001';
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF current_setting('lock_timeout') = '0' THEN
        -- Who waits for the append lock may be waiting for itself.
        PERFORM set_config('lock_timeout', '10s', true);
    END IF;
    FOR i IN 1 .. cardinality(t_key) LOOP
        PERFORM FROM {schema}.event_types AS t
          WHERE t.type_key = t_key[i] AND t.category = t_category[i] AND t.name = t_name[i];
        IF NOT FOUND THEN
            RAISE EXCEPTION 'an event type is not the one it was' USING ERRCODE = 'ES002';
        END IF;
    END LOOP;
END $$;

-- The same, newest first. The statements are those of `matching`, and their reasons, too, with each order turned round: a
-- twin, because an order that is an expression finds no index.
CREATE FUNCTION {schema}.matching_backwards(
    p_names text[], p_tags text[], p_categories text[], p_keys text[], p_after bigint, p_until bigint, p_limit bigint)
RETURNS SETOF bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off AS $$
DECLARE
    found_positions bigint[] := '{}';
    item_names text[]; item_tags text[]; item_types int[]; item_streams text[];
BEGIN
    FOR i IN 1 .. cardinality(p_names) LOOP
        item_names := p_names[i]::text[];
        item_tags := p_tags[i]::text[];
        item_types := NULL;
        IF item_names <> '{}' OR p_categories[i] IS NOT NULL THEN
            item_types := ARRAY(SELECT t.type_key FROM {schema}.event_types AS t
                                 WHERE (item_names = '{}' OR t.name = ANY (item_names))
                                   AND (p_categories[i] IS NULL OR t.category = p_categories[i]));
            CONTINUE WHEN item_types = '{}';
        END IF;
        item_streams := NULL;
        IF p_keys[i] IS NOT NULL THEN
            item_streams := ARRAY(SELECT DISTINCT t.category || '-' || p_keys[i] FROM {schema}.event_types AS t
                                   WHERE item_types IS NULL OR t.type_key = ANY (item_types));
        END IF;
        IF p_until - p_after <= (CASE WHEN item_tags <> '{}' AND item_streams IS NULL THEN 20000 ELSE 2000 END) THEN
            found_positions := found_positions || ARRAY(
                SELECT e.position FROM {schema}.events AS e
                 WHERE e.position > p_after AND e.position <= p_until
                   AND (item_types IS NULL OR e.type_key = ANY (item_types))
                   AND (item_streams IS NULL OR e.stream = ANY (item_streams))
                   AND e.tags @> item_tags
                 ORDER BY e.position DESC LIMIT p_limit);
        ELSIF item_streams IS NOT NULL THEN
            found_positions := found_positions || ARRAY(
                SELECT one.position FROM unnest(item_streams) AS s (stream)
                 CROSS JOIN LATERAL (SELECT e.position FROM {schema}.events AS e
                                      WHERE e.stream = s.stream AND e.position + 0 > p_after AND e.position + 0 <= p_until
                                        AND (item_types IS NULL OR e.type_key = ANY (item_types))
                                        AND e.tags @> item_tags
                                      ORDER BY e.version DESC LIMIT p_limit) AS one
                 ORDER BY one.position DESC LIMIT p_limit);
        ELSIF item_tags <> '{}' THEN
            found_positions := found_positions || ARRAY(
                WITH tagged AS MATERIALIZED (
                    SELECT e.position FROM {schema}.events AS e
                     WHERE e.tags <> '{}' AND e.tags @> item_tags
                       AND e.position + 0 > p_after AND e.position + 0 <= p_until
                       AND (item_types IS NULL OR e.type_key = ANY (item_types)))
                SELECT tagged.position FROM tagged ORDER BY tagged.position DESC LIMIT p_limit);
        ELSIF item_types IS NOT NULL THEN
            found_positions := found_positions || ARRAY(
                SELECT one.position FROM unnest(item_types) AS t (type_key)
                 CROSS JOIN LATERAL (SELECT e.position FROM {schema}.events AS e
                                      WHERE (e.type_key, e.position) > (t.type_key, p_after)
                                        AND (e.type_key, e.position) <= (t.type_key, p_until)
                                      ORDER BY e.type_key DESC, e.position DESC LIMIT p_limit) AS one
                 ORDER BY one.position DESC LIMIT p_limit);
        ELSE
            found_positions := found_positions || ARRAY(
                SELECT e.position FROM {schema}.events AS e
                 WHERE e.position > p_after AND e.position <= p_until ORDER BY e.position DESC LIMIT p_limit);
        END IF;
    END LOOP;
    RETURN QUERY SELECT DISTINCT place FROM unnest(found_positions) AS place ORDER BY place DESC LIMIT p_limit;
END $$;

-- Appends all events, or none. Plans are made once, perhaps while the log is young and a scan of it is cheap: none may
-- (enable_seqscan). Always one row:
--   status 0  recorded: positions from `first_position` on; `versions` are those of the streams before
--   status 1  a stream is not as expected: `stream` is at `version`
--   status 2  an event matches the condition: that at `version` of `stream`
--   status 3  an event id is taken: `event_id`; `first_position` is where the first id is, if it is anywhere
--
-- p_look: look for the ids before anything is written. Else one that is taken breaks its constraint.
-- w_*: a stream to write to, each once; expected -1: anything, -2: any event, else exactly this version.
-- e_*: an event, in the order of the log: its stream (a place in w_*), its number among those of its stream, both from 1;
--      e_tags are arrays written as text.
-- u_*: a stream that must still be at a version. c_*: the condition: no event after c_after matches an item.
-- t_*: the event types, each once.
CREATE FUNCTION {schema}.append(
    w_stream text[], w_expected bigint[],
    e_stream int[], e_number int[], e_id uuid[], e_type int[], e_schema int[], e_occurred timestamptz[],
    e_tags text[], e_metadata bytea[], e_payload bytea[],
    u_stream text[], u_version bigint[],
    c_after bigint, c_names text[], c_tags text[], t_key int[], t_category text[], t_name text[], p_look boolean)
RETURNS TABLE (status int, versions bigint[], stream text, version bigint, first_position bigint,
               recorded_at timestamptz, event_id uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    head bigint; head_before_lock bigint; recorded_now timestamptz; in_the_way bigint; befores bigint[];
    bad_stream text; bad_version bigint; taken uuid;
    any_category constant text[] := array_fill(NULL::text, ARRAY[cardinality(c_names)]);
BEGIN
    PERFORM {schema}.may_append(t_key, t_category, t_name);

    -- The long part of the condition, while others may append.
    IF c_after IS NOT NULL THEN
        SELECT coalesce(max(e.position), 0) INTO head_before_lock FROM {schema}.events AS e;
        SELECT place INTO in_the_way
          FROM {schema}.matching(c_names, c_tags, any_category, any_category, c_after, head_before_lock, 1) AS place;
    END IF;

    -- Held until the commit is visible to all.
    PERFORM pg_advisory_xact_lock(1163088689, '{schema}'::regnamespace::oid::int4);

    SELECT e.position, e.recorded_at INTO head, recorded_now FROM {schema}.events AS e ORDER BY e.position DESC LIMIT 1;
    head := coalesce(head, 0);
    recorded_now := greatest(clock_timestamp(), recorded_now);

    SELECT array_agg(coalesce(last.version, 0) ORDER BY w.i) INTO befores
      FROM unnest(w_stream) WITH ORDINALITY AS w (stream, i)
      LEFT JOIN LATERAL (SELECT e.version FROM {schema}.events AS e
                          WHERE e.stream = w.stream ORDER BY e.version DESC LIMIT 1) AS last ON true;
    SELECT w.stream, w.before INTO bad_stream, bad_version
      FROM unnest(w_stream, w_expected, befores) WITH ORDINALITY AS w (stream, expected, before, i)
     WHERE NOT CASE w.expected WHEN -1 THEN true WHEN -2 THEN w.before > 0 ELSE w.before = w.expected END
     ORDER BY w.i LIMIT 1;
    IF NOT FOUND AND cardinality(u_stream) > 0 THEN
        SELECT u.stream, coalesce(last.version, 0) INTO bad_stream, bad_version
          FROM unnest(u_stream, u_version) WITH ORDINALITY AS u (stream, expected, i)
          LEFT JOIN LATERAL (SELECT e.version FROM {schema}.events AS e
                              WHERE e.stream = u.stream ORDER BY e.version DESC LIMIT 1) AS last ON true
         WHERE coalesce(last.version, 0) <> u.expected
         ORDER BY u.i LIMIT 1;
    END IF;

    -- The short part: what was appended while we waited.
    IF c_after IS NOT NULL AND in_the_way IS NULL AND head > head_before_lock THEN
        SELECT place INTO in_the_way
          FROM {schema}.matching(c_names, c_tags, any_category, any_category,
                                 greatest(c_after, head_before_lock), head, 1) AS place;
    END IF;

    -- What is in the way may be these events themselves. One by one: a plan made while the log is young would look for
    -- all of them at once by reading all of it.
    IF p_look OR bad_stream IS NOT NULL OR in_the_way IS NOT NULL THEN
        SELECT n.id INTO taken FROM unnest(e_id) AS n (id)
         WHERE (SELECT true FROM {schema}.events AS e WHERE e.event_id = n.id) LIMIT 1;
        IF FOUND THEN
            RETURN QUERY SELECT 3, NULL::bigint[], NULL::text, NULL::bigint,
                                (SELECT e.position FROM {schema}.events AS e WHERE e.event_id = e_id[1]), NULL::timestamptz,
                                taken;
            RETURN;
        END IF;
    END IF;
    IF bad_stream IS NOT NULL THEN
        RETURN QUERY SELECT 1, NULL::bigint[], bad_stream, bad_version, NULL::bigint, NULL::timestamptz, NULL::uuid;
        RETURN;
    END IF;
    IF in_the_way IS NOT NULL THEN
        RETURN QUERY SELECT 2, NULL::bigint[], e.stream, e.version, e.position, NULL::timestamptz, NULL::uuid
                       FROM {schema}.events AS e WHERE e.position = in_the_way;
        RETURN;
    END IF;

    INSERT INTO {schema}.events (position, version, recorded_at, occurred_at, event_id, type_key, schema,
                                 stream, tags, metadata, payload)
    SELECT head + i, befores[e_stream[i]] + e_number[i], recorded_now, coalesce(e_occurred[i], recorded_now), e_id[i],
           e_type[i], e_schema[i], w_stream[e_stream[i]], e_tags[i]::text[], e_metadata[i], e_payload[i]
      FROM generate_series(1, cardinality(e_id)) AS i;   -- to unnest them would copy each event once more
    RETURN QUERY SELECT 0, befores, NULL::text, NULL::bigint, head + 1, recorded_now, NULL::uuid;
END $$;

-- The common append, lean: to one stream, without a condition. `recorded` is false if the stream is not as expected;
-- an event id that is taken breaks its constraint. In both cases `append` has the word: this one asks nothing twice.
CREATE FUNCTION {schema}.append_one(
    p_stream text, p_expected bigint,
    e_id uuid[], e_type int[], e_schema int[], e_occurred timestamptz[], e_tags text[], e_metadata bytea[], e_payload bytea[],
    t_key int[], t_category text[], t_name text[])
RETURNS TABLE (recorded boolean, before bigint, first_position bigint, recorded_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    head bigint; now timestamptz;
BEGIN
    PERFORM {schema}.may_append(t_key, t_category, t_name);
    PERFORM pg_advisory_xact_lock(1163088689, '{schema}'::regnamespace::oid::int4);
    SELECT e.position, e.recorded_at INTO head, now FROM {schema}.events AS e ORDER BY e.position DESC LIMIT 1;
    SELECT e.version INTO before FROM {schema}.events AS e WHERE e.stream = p_stream ORDER BY e.version DESC LIMIT 1;
    head := coalesce(head, 0);
    before := coalesce(before, 0);
    first_position := head + 1;
    recorded_at := greatest(clock_timestamp(), now);
    recorded := CASE p_expected WHEN -1 THEN true WHEN -2 THEN before > 0 ELSE before = p_expected END;
    IF recorded THEN
        INSERT INTO {schema}.events (position, version, recorded_at, occurred_at, event_id, type_key, schema,
                                     stream, tags, metadata, payload)
        SELECT head + i, before + i, recorded_at, coalesce(e_occurred[i], recorded_at), e_id[i], e_type[i], e_schema[i],
               p_stream, e_tags[i]::text[], e_metadata[i], e_payload[i]
          FROM generate_series(1, cardinality(e_id)) AS i;
    END IF;
    RETURN NEXT;
END $$;

-- Many appends with one lock and one flush, each recorded or not by itself. One row for each of their streams, in
-- order, with whether its append was recorded. Those that were not go through `append`, which says why. No two may
-- write to the same stream, and no condition may ask for what another one appends: the caller sees to that.
--
-- w_*: a stream of the append numbered w_append (from 1, ascending), which must be as w_expected.
-- e_*: an event: its append, its stream (a place in w_*), its number in the stream and in the append, both from 1.
-- c_*: an item of the condition of an append, as in `append`. p_pipelined: do not wait for the disk; the caller does.
CREATE FUNCTION {schema}.append_batch(
    w_append int[], w_stream text[], w_expected bigint[], w_events int[],
    e_write int[], e_number int[], e_place int[], e_id uuid[], e_type int[], e_schema int[], e_occurred timestamptz[],
    e_tags text[], e_metadata bytea[], e_payload bytea[],
    c_append int[], c_after bigint[], c_names text[], c_tags text[], t_key int[], t_category text[], t_name text[],
    p_pipelined boolean)
RETURNS TABLE (recorded boolean, before bigint, first_position bigint, recorded_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    head bigint; now timestamptz; head_before_lock bigint; refused int[] := '{}';
BEGIN
    PERFORM {schema}.may_append(t_key, t_category, t_name);
    IF p_pipelined THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;

    -- Conditions that reach far back, up to here, while others may append.
    IF cardinality(c_append) > 0 THEN
        SELECT coalesce(max(e.position), 0) INTO head_before_lock FROM {schema}.events AS e;
        refused := ARRAY(
            SELECT c.append FROM unnest(c_append, c_after, c_names, c_tags) AS c (append, after, names, tags)
             CROSS JOIN LATERAL {schema}.matching(ARRAY[c.names], ARRAY[c.tags], '{NULL}', '{NULL}',
                                                  c.after, head_before_lock, 1)
             WHERE head_before_lock - c.after > 500);
        c_after := ARRAY(SELECT CASE WHEN head_before_lock - after > 500 THEN head_before_lock ELSE after END
                           FROM unnest(c_after) WITH ORDINALITY AS c (after, i) ORDER BY i);
    END IF;

    PERFORM pg_advisory_xact_lock(1163088689, '{schema}'::regnamespace::oid::int4);

    SELECT e.position, e.recorded_at INTO head, now FROM {schema}.events AS e ORDER BY e.position DESC LIMIT 1;
    head := coalesce(head, 0);
    now := greatest(clock_timestamp(), now);

    -- The rest of all conditions at once: by the first tag of each, or, where there is none, each event.
    IF cardinality(c_append) > 0 THEN
        refused := refused || ARRAY(
            WITH newer AS MATERIALIZED (
                SELECT e.position, e.tags, t.name
                  FROM {schema}.events AS e JOIN {schema}.event_types AS t USING (type_key)
                 WHERE e.position > (SELECT min(after) FROM unnest(c_after) AS c (after)) AND e.position <= head),
            conditions AS MATERIALIZED (
                SELECT c.append, c.after, c.names::text[] AS names, c.tags::text[] AS tags
                  FROM unnest(c_append, c_after, c_names, c_tags) AS c (append, after, names, tags))
            SELECT c.append FROM conditions AS c
              JOIN (newer AS n CROSS JOIN LATERAL unnest(n.tags) AS tag) ON tag = c.tags[1]
             WHERE n.position > c.after AND n.tags @> c.tags AND (c.names = '{}' OR n.name = ANY (c.names))
             UNION ALL
            SELECT c.append FROM conditions AS c JOIN newer AS n ON n.position > c.after
             WHERE c.tags = '{}' AND (c.names = '{}' OR n.name = ANY (c.names)));
    END IF;

    RETURN QUERY
    WITH writes AS MATERIALIZED (
        SELECT w.i, w.append, w.stream, w.expected, w.events,
               coalesce((SELECT e.version FROM {schema}.events AS e
                          WHERE e.stream = w.stream ORDER BY e.version DESC LIMIT 1), 0) AS before
          FROM unnest(w_append, w_stream, w_expected, w_events)
               WITH ORDINALITY AS w (append, stream, expected, events, i)),
    appends AS MATERIALIZED (
        SELECT append, recorded, sum(CASE WHEN recorded THEN events ELSE 0 END) OVER (ORDER BY append) - events AS places
          FROM (SELECT w.append, sum(w.events) AS events,
                       w.append <> ALL (refused) AND bool_and(
                           CASE w.expected WHEN -1 THEN true WHEN -2 THEN w.before > 0 ELSE w.before = w.expected END
                       ) AS recorded
                  FROM writes AS w GROUP BY w.append) AS a),
    inserted AS (
        INSERT INTO {schema}.events (position, version, recorded_at, occurred_at, event_id, type_key, schema,
                                     stream, tags, metadata, payload)
        SELECT head + a.places + e_place[n], w.before + e_number[n], now, coalesce(e_occurred[n], now), e_id[n], e_type[n],
               e_schema[n], w.stream, e_tags[n]::text[], e_metadata[n], e_payload[n]
          FROM generate_series(1, cardinality(e_id)) AS n
          JOIN writes AS w ON w.i = e_write[n]
          JOIN appends AS a ON a.append = w.append AND a.recorded)
    SELECT a.recorded, w.before, (head + a.places + 1)::bigint, now
      FROM writes AS w JOIN appends AS a USING (append) ORDER BY w.i;
END $$;

-- The last position recorded at or before an instant: a binary search, for positions have no gaps and time never goes
-- back along them.
CREATE FUNCTION {schema}.position_at(p_time timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    low bigint := 0;
    high bigint;
    middle bigint;
BEGIN
    SELECT coalesce(max(e.position), 0) INTO high FROM {schema}.events AS e;
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        IF (SELECT e.recorded_at FROM {schema}.events AS e WHERE e.position = middle) <= p_time THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END $$;

-- Bytes as JSON, or NULL if they are not.
CREATE FUNCTION {schema}.json(p_bytes bytea) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN convert_from(p_bytes, 'UTF8')::jsonb;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;

-- The log as people want to see it.
CREATE VIEW {schema}.log AS
SELECT e.position, e.stream, e.version, t.name AS event, {schema}.json(e.payload) AS data, e.tags,
       e.recorded_at, e.occurred_at, {schema}.json(e.metadata) AS metadata, e.schema, e.event_id
  FROM {schema}.events AS e
  JOIN {schema}.event_types AS t USING (type_key);

-- How far each shard of a projection has come, and which node moves it. A shard has the keys of some slots of 1,024.
CREATE TABLE {schema}.checkpoints (
    projection text COLLATE "C" NOT NULL,
    from_slot  int              NOT NULL,
    to_slot    int              NOT NULL CONSTRAINT checkpoints_slots CHECK (from_slot < to_slot),
    position   bigint           NOT NULL,
    event_id   uuid,
    epoch      bigint           NOT NULL,
    owner      uuid,
    updated_at timestamptz      NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT checkpoints_pk PRIMARY KEY (projection, from_slot)
) WITH (fillfactor = 30);

REVOKE ALL ON FUNCTION {schema}.may_append, {schema}.append, {schema}.append_one, {schema}.append_batch, {schema}.type_keys FROM PUBLIC;
