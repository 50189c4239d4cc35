-- Functions that believe nothing, a lock that others cannot take, and the identity of the log.
--
-- Whoever may call the functions decides what is appended, and nothing else: positions, versions and instants are the
-- functions', and what they are given is checked once a call. Parameters that said the numbers of events stay for now,
-- and are ignored.

-- No append of the functions before this migration is under way beside one of those after it: they take other locks.
LOCK TABLE {schema}.events IN ACCESS EXCLUSIVE MODE;

-- What these checked is computed by the functions. PostgreSQL prepares a constraint anew for each statement.
ALTER TABLE {schema}.events DROP CONSTRAINT events_position, DROP CONSTRAINT events_version;

-- The identity of the log, one row. The id is made here, and a backup or a copy has the same; the epoch is raised when an
-- operator accepts that the end of the log was lost.
CREATE TABLE {schema}.identity (
    one   boolean     NOT NULL DEFAULT true CONSTRAINT identity_pk PRIMARY KEY CONSTRAINT identity_one CHECK (one),
    id    uuid        NOT NULL DEFAULT gen_random_uuid(),
    epoch bigint      NOT NULL DEFAULT 1 CONSTRAINT identity_epoch CHECK (epoch > 0),
    kind  text        NOT NULL DEFAULT 'log',
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO {schema}.identity DEFAULT VALUES;

-- The lock of appends. It is a table, because a table has an owner: an advisory lock can be taken by every role that may
-- connect. Others than the owner may have SELECT on it, which allows ACCESS SHARE only, so that pg_dump can be run by them.
CREATE TABLE {schema}.append_lock ();

-- The locks of projections, which an append takes where it keeps rows: a row each, for the same reason.
CREATE TABLE {schema}.projection_locks (
    projection text COLLATE "C" NOT NULL CONSTRAINT projection_locks_pk PRIMARY KEY
);
REVOKE ALL ON {schema}.identity, {schema}.append_lock, {schema}.projection_locks FROM PUBLIC;

-- Takes the lock of appends, which is held until the commit is visible to all. SHARE UPDATE EXCLUSIVE conflicts with
-- itself, and is below the modes for which PostgreSQL searches the locks of all sessions.
CREATE OR REPLACE FUNCTION {schema}.lock_appends() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$                          -- only called by functions that have set the search path
DECLARE
    unlimited constant boolean := current_setting('lock_timeout') = '0';
BEGIN
    IF unlimited THEN
        -- A caller that waits for the lock may be waiting for itself.
        PERFORM set_config('lock_timeout', '10s', true);
    END IF;
    LOCK TABLE {schema}.append_lock IN SHARE UPDATE EXCLUSIVE MODE;
    IF unlimited THEN
        PERFORM set_config('lock_timeout', '0', true);
    END IF;
END $$;

-- The keys of event types, given out at first use. Not under the append lock. If the log would have too many types, none
-- is added, and those that are new are not among the rows.
CREATE OR REPLACE FUNCTION {schema}.type_keys(p_categories text[], p_names text[])
RETURNS TABLE (type_key int, category text, name text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    unlimited constant boolean := current_setting('lock_timeout') = '0';
    known int;
    fresh int;
BEGIN
    IF EXISTS (SELECT FROM unnest(p_categories, p_names) AS n (category, name)
                WHERE (n.category ~ '^[a-z0-9_.]+$' AND n.name ~ '^[^$[:cntrl:]][^[:cntrl:]]*$'
                       AND octet_length(n.category) <= 512 AND octet_length(n.name) <= 512) IS NOT TRUE) THEN
        RAISE EXCEPTION 'these are no names of event types' USING ERRCODE = 'ES003';
    END IF;
    SELECT count(*) INTO known FROM {schema}.event_types;
    SELECT count(DISTINCT (n.category, n.name)) INTO fresh FROM unnest(p_categories, p_names) AS n (category, name)
     WHERE NOT EXISTS (SELECT FROM {schema}.event_types AS t WHERE t.category = n.category AND t.name = n.name);
    IF known + fresh <= 10000 THEN
        IF unlimited THEN
            -- A caller that waits for another to commit the same type may be waiting for itself.
            PERFORM set_config('lock_timeout', '10s', true);
        END IF;
        INSERT INTO {schema}.event_types (category, name)
        SELECT DISTINCT n.category, n.name FROM unnest(p_categories, p_names) AS n (category, name)
         ORDER BY n.category, n.name                     -- two who add the same wait for each other one way round
        ON CONFLICT DO NOTHING;
        IF unlimited THEN
            PERFORM set_config('lock_timeout', '0', true);
        END IF;
    END IF;
    -- Another statement: it sees what others have just added.
    RETURN QUERY SELECT t.type_key, t.category, t.name
                   FROM unnest(p_categories, p_names) AS n (category, name)
                   JOIN {schema}.event_types AS t ON t.category = n.category AND t.name = n.name;
END $$;

-- Raises unless a transaction may append these events. It checks
--   * that the transaction can see what was appended while it waits for the lock, and that its commit is flushed;
--   * that the event types are there and are what the caller takes them for: a key may be of a type whose registration was
--     rolled back, or lost with the end of the log in a failover, and be another's by now;
--   * that each event has one of these types, in a stream of its category, and values that can be read back. Numbers of
--     events and streams that do not fit an array find NULL, which no column takes.
-- e_write: the place of each event's stream in w_stream, from 1; NULL if there is one stream.
DROP FUNCTION {schema}.may_append(int[], text[], text[]);
CREATE OR REPLACE FUNCTION {schema}.may_append(
    w_stream text[], e_write int[], e_id uuid[], e_type int[], e_schema int[], e_occurred timestamptz[],
    e_tags text[], e_metadata bytea[], e_payload bytea[], t_key int[], t_category text[], t_name text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$                          -- only called by functions that have set the search path
DECLARE
    n constant int := cardinality(e_id);
    one text;
    its_tags text[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        -- A snapshot from before the lock would not see what was appended while we waited for it.
        RAISE EXCEPTION 'events are appended at READ COMMITTED only' USING ERRCODE = 'ES001';
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    FOR i IN 1 .. cardinality(t_key) LOOP
        PERFORM FROM {schema}.event_types AS t
          WHERE t.type_key = t_key[i] AND t.category = t_category[i] AND t.name = t_name[i];
        IF NOT FOUND THEN
            RAISE EXCEPTION 'an event type is not the one it was' USING ERRCODE = 'ES002';
        END IF;
    END LOOP;
    IF (n > 0 AND e_type <@ t_key AND NOT 0 >= ANY (e_schema)
        AND (cardinality(e_type), cardinality(e_schema), cardinality(e_occurred), cardinality(e_tags),
             cardinality(e_metadata), cardinality(e_payload)) = (n, n, n, n, n, n)) IS NOT TRUE
       OR 'infinity' = ANY (e_occurred) OR '-infinity' = ANY (e_occurred)
       OR e_write IS NULL AND (split_part(w_stream[1], '-', 1) = ALL (t_category)) IS NOT TRUE THEN
        RAISE EXCEPTION 'these are no events' USING ERRCODE = 'ES003';
    END IF;
    FOREACH one IN ARRAY w_stream LOOP
        IF (one ~ '^[a-z0-9_.]+-.' AND octet_length(one) <= 1025) IS NOT TRUE THEN
            RAISE EXCEPTION 'this is no stream' USING ERRCODE = 'ES003';
        END IF;
    END LOOP;
    IF e_write IS NOT NULL THEN
        FOR i IN 1 .. n LOOP
            IF split_part(w_stream[e_write[i]], '-', 1) IS DISTINCT FROM t_category[array_position(t_key, e_type[i])] THEN
                RAISE EXCEPTION 'an event type is of another category than its stream' USING ERRCODE = 'ES003';
            END IF;
        END LOOP;
    END IF;
    FOREACH one IN ARRAY e_tags LOOP
        IF one <> '{}' THEN
            its_tags := one::text[];
            IF array_ndims(its_tags) IS DISTINCT FROM 1 OR array_lower(its_tags, 1) <> 1 OR cardinality(its_tags) > 128
               OR array_position(its_tags, NULL) IS NOT NULL
               OR array_to_string(its_tags, E'\n') !~ '^[a-z0-9_.]+:[^\n]+(\n[a-z0-9_.]+:[^\n]+)*$' THEN
                RAISE EXCEPTION 'these are no tags' USING ERRCODE = 'ES003';
            END IF;
        END IF;
    END LOOP;
END $$;

-- Appends all events, or none. Plans are made once, perhaps while the log is young and a scan of it is cheap: none may
-- (enable_seqscan). Always one row:
--   status 0  recorded: positions from `first_position` on; `versions` are those of the streams before
--   status 1  a stream is not as expected: `stream` is at `version`
--   status 2  an event matches the condition: that at `version` of `stream`
--   status 3  an event id is taken: `event_id`; `first_position` is where the first id is, if it is anywhere
--   status 4  the condition is of another log: this one ends at `first_position`, before `c_after`
--
-- p_look: look for the ids before anything is written. Else one that is taken breaks its constraint.
-- w_*: a stream to write to, each once; expected -1: anything, -2: any event, else exactly this version.
-- e_*: an event, in the order of the log: its stream (a place in w_*, from 1); e_number is ignored; e_tags are arrays
--      written as text.
-- u_*: a stream that must still be at a version. c_*: the condition: no event after c_after matches an item.
-- t_*: the event types, each once.
CREATE OR REPLACE FUNCTION {schema}.append(
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
    PERFORM {schema}.may_append(w_stream, e_stream, e_id, e_type, e_schema, e_occurred, e_tags, e_metadata, e_payload,
                                t_key, t_category, t_name);

    -- The long part of the condition, while others may append.
    IF c_after IS NOT NULL THEN
        SELECT coalesce(max(e.position), 0) INTO head_before_lock FROM {schema}.events AS e;
        SELECT place INTO in_the_way
          FROM {schema}.matching(c_names, c_tags, any_category, any_category, c_after, head_before_lock, 1) AS place;
    END IF;

    PERFORM {schema}.lock_appends();

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
    IF p_look OR bad_stream IS NOT NULL OR in_the_way IS NOT NULL OR c_after > head THEN
        SELECT n.id INTO taken FROM unnest(e_id) AS n (id)
         WHERE (SELECT true FROM {schema}.events AS e WHERE e.event_id = n.id) LIMIT 1;
        IF FOUND THEN
            RETURN QUERY SELECT 3, NULL::bigint[], NULL::text, NULL::bigint,
                                (SELECT e.position FROM {schema}.events AS e WHERE e.event_id = e_id[1]), NULL::timestamptz,
                                taken;
            RETURN;
        END IF;
    END IF;
    IF c_after > head THEN
        RETURN QUERY SELECT 4, NULL::bigint[], NULL::text, NULL::bigint, head, NULL::timestamptz, NULL::uuid;
        RETURN;
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
    SELECT head + i, befores[e_stream[i]] + row_number() OVER (PARTITION BY e_stream[i] ORDER BY i),
           recorded_now, coalesce(e_occurred[i], recorded_now), e_id[i],
           e_type[i], e_schema[i], w_stream[e_stream[i]], e_tags[i]::text[], e_metadata[i], e_payload[i]
      FROM generate_series(1, cardinality(e_id)) AS i;   -- to unnest them would copy each event once more
    RETURN QUERY SELECT 0, befores, NULL::text, NULL::bigint, head + 1, recorded_now, NULL::uuid;
END $$;

-- The common append: to one stream, without a condition. `recorded` is false if the stream is not as expected; an event id
-- that is taken breaks its constraint. In both cases `append` says why: this one asks nothing twice.
CREATE OR REPLACE FUNCTION {schema}.append_one(
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
    PERFORM {schema}.may_append(ARRAY[p_stream], NULL, e_id, e_type, e_schema, e_occurred, e_tags, e_metadata, e_payload,
                                t_key, t_category, t_name);
    PERFORM {schema}.lock_appends();
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
-- w_*: a stream of the append numbered w_append (from 1, ascending), which must be as w_expected; w_events is ignored.
-- e_*: an event: its stream (a place in w_*, from 1). The events of an append come stream by stream, as w_* has them, and
--      of each stream in order; e_number and e_place are ignored.
-- c_*: an item of the condition of an append, as in `append`. p_pipelined: do not wait for the disk; the caller does.
CREATE OR REPLACE FUNCTION {schema}.append_batch(
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
    PERFORM {schema}.may_append(w_stream, e_write, e_id, e_type, e_schema, e_occurred, e_tags, e_metadata, e_payload,
                                t_key, t_category, t_name);
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

    PERFORM {schema}.lock_appends();

    SELECT e.position, e.recorded_at INTO head, now FROM {schema}.events AS e ORDER BY e.position DESC LIMIT 1;
    head := coalesce(head, 0);
    now := greatest(clock_timestamp(), now);

    -- The rest of all conditions at once: by the first tag of each, or, where there is none, each event. A condition of
    -- another log asks for what is behind the end of this one.
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
             WHERE c.tags = '{}' AND (c.names = '{}' OR n.name = ANY (c.names))
             UNION ALL
            SELECT c.append FROM conditions AS c WHERE c.after > head);
    END IF;

    RETURN QUERY
    WITH writes AS MATERIALIZED (
        SELECT w.i, w.append, w.stream, w.expected,
               coalesce((SELECT e.version FROM {schema}.events AS e
                          WHERE e.stream = w.stream ORDER BY e.version DESC LIMIT 1), 0) AS before
          FROM unnest(w_append, w_stream, w_expected) WITH ORDINALITY AS w (append, stream, expected, i)),
    appends AS MATERIALIZED (
        SELECT w.append, w.append <> ALL (refused) AND bool_and(
                   CASE w.expected WHEN -1 THEN true WHEN -2 THEN w.before > 0 ELSE w.before = w.expected END) AS recorded
          FROM writes AS w GROUP BY w.append),
    -- Those that are recorded, so that positions have no gap. Both numbers in one order, which is sorted once.
    numbered AS MATERIALIZED (
        SELECT n, w.append, w.stream, w.before + row_number() OVER (PARTITION BY w.append, w.i ORDER BY n) AS version,
               head + row_number() OVER (ORDER BY w.append, w.i, n) AS position
          FROM generate_series(1, cardinality(e_id)) AS n
          JOIN writes AS w ON w.i = e_write[n]
          JOIN appends AS a ON a.append = w.append AND a.recorded),
    inserted AS (
        INSERT INTO {schema}.events (position, version, recorded_at, occurred_at, event_id, type_key, schema,
                                     stream, tags, metadata, payload)
        SELECT m.position, m.version, now, coalesce(e_occurred[m.n], now), e_id[m.n], e_type[m.n],
               e_schema[m.n], m.stream, e_tags[m.n]::text[], e_metadata[m.n], e_payload[m.n]
          FROM numbered AS m)
    SELECT a.recorded, w.before, coalesce(f.position, 0), now
      FROM writes AS w JOIN appends AS a USING (append)
      LEFT JOIN (SELECT m.append, min(m.position) AS position FROM numbered AS m GROUP BY m.append) AS f USING (append)
     ORDER BY w.i;
END $$;

-- The last position recorded at or before an instant: a binary search, for positions have no gaps and time never goes
-- back along them.
--
-- An event that cannot be seen yet and is stamped at or before an instant that is over is of the transaction that holds the
-- lock of appends now: who gets the lock later stamps later. And if an event with a later stamp can be seen, what is open
-- is stamped later still. So the present holder is waited for, once, and only where no event after the instant can be
-- seen. A replica cannot wait.
CREATE OR REPLACE FUNCTION {schema}.position_at(p_time timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    low bigint := 0;
    high bigint;
    middle bigint;
    last timestamptz;
BEGIN
    SELECT e.recorded_at INTO last FROM {schema}.events AS e ORDER BY e.position DESC LIMIT 1;
    IF (last IS NULL OR last <= p_time) AND NOT pg_is_in_recovery() THEN
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            -- The search would not see what was committed while we waited.
            RAISE EXCEPTION 'an instant is looked up at READ COMMITTED only' USING ERRCODE = 'ES001';
        END IF;
        BEGIN                                            -- a subtransaction: what it has locked and set, it lets go
            IF current_setting('lock_timeout') = '0' THEN
                PERFORM set_config('lock_timeout', '10s', true);
            END IF;
            LOCK TABLE {schema}.append_lock IN SHARE MODE;
            RAISE EXCEPTION USING ERRCODE = 'ES0WT';
        EXCEPTION WHEN SQLSTATE 'ES0WT' THEN NULL;
        END;
    END IF;
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

REVOKE ALL ON FUNCTION {schema}.lock_appends, {schema}.may_append FROM PUBLIC;
