--
-- PostgreSQL database dump
--


-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: eventstore_golden; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA eventstore_golden;


--
-- Name: append(text[], bigint[], integer[], integer[], uuid[], integer[], integer[], timestamp with time zone[], text[], bytea[], bytea[], text[], bigint[], bigint, text[], text[], integer[], text[], text[], boolean); Type: FUNCTION; Schema: eventstore_golden; Owner: -
--

CREATE FUNCTION eventstore_golden.append(w_stream text[], w_expected bigint[], e_stream integer[], e_number integer[], e_id uuid[], e_type integer[], e_schema integer[], e_occurred timestamp with time zone[], e_tags text[], e_metadata bytea[], e_payload bytea[], u_stream text[], u_version bigint[], c_after bigint, c_names text[], c_tags text[], t_key integer[], t_category text[], t_name text[], p_look boolean) RETURNS TABLE(status integer, versions bigint[], stream text, version bigint, first_position bigint, recorded_at timestamp with time zone, event_id uuid)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET jit TO 'off'
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
DECLARE
    head bigint; head_before_lock bigint; recorded_now timestamptz; in_the_way bigint; befores bigint[];
    bad_stream text; bad_version bigint; taken uuid;
    any_category constant text[] := array_fill(NULL::text, ARRAY[cardinality(c_names)]);
BEGIN
    PERFORM "eventstore_golden".may_append(t_key, t_category, t_name);

    -- The long part of the condition, while others may append.
    IF c_after IS NOT NULL THEN
        SELECT coalesce(max(e.position), 0) INTO head_before_lock FROM "eventstore_golden".events AS e;
        SELECT place INTO in_the_way
          FROM "eventstore_golden".matching(c_names, c_tags, any_category, any_category, c_after, head_before_lock, 1) AS place;
    END IF;

    -- Held until the commit is visible to all.
    PERFORM pg_advisory_xact_lock(1163088689, '"eventstore_golden"'::regnamespace::oid::int4);

    SELECT e.position, e.recorded_at INTO head, recorded_now FROM "eventstore_golden".events AS e ORDER BY e.position DESC LIMIT 1;
    head := coalesce(head, 0);
    recorded_now := greatest(clock_timestamp(), recorded_now);

    SELECT array_agg(coalesce(last.version, 0) ORDER BY w.i) INTO befores
      FROM unnest(w_stream) WITH ORDINALITY AS w (stream, i)
      LEFT JOIN LATERAL (SELECT e.version FROM "eventstore_golden".events AS e
                          WHERE e.stream = w.stream ORDER BY e.version DESC LIMIT 1) AS last ON true;
    SELECT w.stream, w.before INTO bad_stream, bad_version
      FROM unnest(w_stream, w_expected, befores) WITH ORDINALITY AS w (stream, expected, before, i)
     WHERE NOT CASE w.expected WHEN -1 THEN true WHEN -2 THEN w.before > 0 ELSE w.before = w.expected END
     ORDER BY w.i LIMIT 1;
    IF NOT FOUND AND cardinality(u_stream) > 0 THEN
        SELECT u.stream, coalesce(last.version, 0) INTO bad_stream, bad_version
          FROM unnest(u_stream, u_version) WITH ORDINALITY AS u (stream, expected, i)
          LEFT JOIN LATERAL (SELECT e.version FROM "eventstore_golden".events AS e
                              WHERE e.stream = u.stream ORDER BY e.version DESC LIMIT 1) AS last ON true
         WHERE coalesce(last.version, 0) <> u.expected
         ORDER BY u.i LIMIT 1;
    END IF;

    -- The short part: what was appended while we waited.
    IF c_after IS NOT NULL AND in_the_way IS NULL AND head > head_before_lock THEN
        SELECT place INTO in_the_way
          FROM "eventstore_golden".matching(c_names, c_tags, any_category, any_category,
                                 greatest(c_after, head_before_lock), head, 1) AS place;
    END IF;

    -- What is in the way may be these events themselves. One by one: a plan made while the log is young would look for
    -- all of them at once by reading all of it.
    IF p_look OR bad_stream IS NOT NULL OR in_the_way IS NOT NULL THEN
        SELECT n.id INTO taken FROM unnest(e_id) AS n (id)
         WHERE (SELECT true FROM "eventstore_golden".events AS e WHERE e.event_id = n.id) LIMIT 1;
        IF FOUND THEN
            RETURN QUERY SELECT 3, NULL::bigint[], NULL::text, NULL::bigint,
                                (SELECT e.position FROM "eventstore_golden".events AS e WHERE e.event_id = e_id[1]), NULL::timestamptz,
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
                       FROM "eventstore_golden".events AS e WHERE e.position = in_the_way;
        RETURN;
    END IF;

    INSERT INTO "eventstore_golden".events (position, version, recorded_at, occurred_at, event_id, type_key, schema,
                                 stream, tags, metadata, payload)
    SELECT head + i, befores[e_stream[i]] + e_number[i], recorded_now, coalesce(e_occurred[i], recorded_now), e_id[i],
           e_type[i], e_schema[i], w_stream[e_stream[i]], e_tags[i]::text[], e_metadata[i], e_payload[i]
      FROM generate_series(1, cardinality(e_id)) AS i;   -- to unnest them would copy each event once more
    RETURN QUERY SELECT 0, befores, NULL::text, NULL::bigint, head + 1, recorded_now, NULL::uuid;
END $$;


--
-- Name: append_batch(integer[], text[], bigint[], integer[], integer[], integer[], integer[], uuid[], integer[], integer[], timestamp with time zone[], text[], bytea[], bytea[], integer[], bigint[], text[], text[], integer[], text[], text[], boolean); Type: FUNCTION; Schema: eventstore_golden; Owner: -
--

CREATE FUNCTION eventstore_golden.append_batch(w_append integer[], w_stream text[], w_expected bigint[], w_events integer[], e_write integer[], e_number integer[], e_place integer[], e_id uuid[], e_type integer[], e_schema integer[], e_occurred timestamp with time zone[], e_tags text[], e_metadata bytea[], e_payload bytea[], c_append integer[], c_after bigint[], c_names text[], c_tags text[], t_key integer[], t_category text[], t_name text[], p_pipelined boolean) RETURNS TABLE(recorded boolean, before bigint, first_position bigint, recorded_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET jit TO 'off'
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
DECLARE
    head bigint; now timestamptz; head_before_lock bigint; refused int[] := '{}';
BEGIN
    PERFORM "eventstore_golden".may_append(t_key, t_category, t_name);
    IF p_pipelined THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;

    -- Conditions that reach far back, up to here, while others may append.
    IF cardinality(c_append) > 0 THEN
        SELECT coalesce(max(e.position), 0) INTO head_before_lock FROM "eventstore_golden".events AS e;
        refused := ARRAY(
            SELECT c.append FROM unnest(c_append, c_after, c_names, c_tags) AS c (append, after, names, tags)
             CROSS JOIN LATERAL "eventstore_golden".matching(ARRAY[c.names], ARRAY[c.tags], '{NULL}', '{NULL}',
                                                  c.after, head_before_lock, 1)
             WHERE head_before_lock - c.after > 500);
        c_after := ARRAY(SELECT CASE WHEN head_before_lock - after > 500 THEN head_before_lock ELSE after END
                           FROM unnest(c_after) WITH ORDINALITY AS c (after, i) ORDER BY i);
    END IF;

    PERFORM pg_advisory_xact_lock(1163088689, '"eventstore_golden"'::regnamespace::oid::int4);

    SELECT e.position, e.recorded_at INTO head, now FROM "eventstore_golden".events AS e ORDER BY e.position DESC LIMIT 1;
    head := coalesce(head, 0);
    now := greatest(clock_timestamp(), now);

    -- The rest of all conditions at once: by the first tag of each, or, where there is none, each event.
    IF cardinality(c_append) > 0 THEN
        refused := refused || ARRAY(
            WITH newer AS MATERIALIZED (
                SELECT e.position, e.tags, t.name
                  FROM "eventstore_golden".events AS e JOIN "eventstore_golden".event_types AS t USING (type_key)
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
               coalesce((SELECT e.version FROM "eventstore_golden".events AS e
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
        INSERT INTO "eventstore_golden".events (position, version, recorded_at, occurred_at, event_id, type_key, schema,
                                     stream, tags, metadata, payload)
        SELECT head + a.places + e_place[n], w.before + e_number[n], now, coalesce(e_occurred[n], now), e_id[n], e_type[n],
               e_schema[n], w.stream, e_tags[n]::text[], e_metadata[n], e_payload[n]
          FROM generate_series(1, cardinality(e_id)) AS n
          JOIN writes AS w ON w.i = e_write[n]
          JOIN appends AS a ON a.append = w.append AND a.recorded)
    SELECT a.recorded, w.before, (head + a.places + 1)::bigint, now
      FROM writes AS w JOIN appends AS a USING (append) ORDER BY w.i;
END $$;


--
-- Name: append_one(text, bigint, uuid[], integer[], integer[], timestamp with time zone[], text[], bytea[], bytea[], integer[], text[], text[]); Type: FUNCTION; Schema: eventstore_golden; Owner: -
--

CREATE FUNCTION eventstore_golden.append_one(p_stream text, p_expected bigint, e_id uuid[], e_type integer[], e_schema integer[], e_occurred timestamp with time zone[], e_tags text[], e_metadata bytea[], e_payload bytea[], t_key integer[], t_category text[], t_name text[]) RETURNS TABLE(recorded boolean, before bigint, first_position bigint, recorded_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET jit TO 'off'
    SET enable_seqscan TO 'off'
    AS $$
#variable_conflict use_column
DECLARE
    head bigint; now timestamptz;
BEGIN
    PERFORM "eventstore_golden".may_append(t_key, t_category, t_name);
    PERFORM pg_advisory_xact_lock(1163088689, '"eventstore_golden"'::regnamespace::oid::int4);
    SELECT e.position, e.recorded_at INTO head, now FROM "eventstore_golden".events AS e ORDER BY e.position DESC LIMIT 1;
    SELECT e.version INTO before FROM "eventstore_golden".events AS e WHERE e.stream = p_stream ORDER BY e.version DESC LIMIT 1;
    head := coalesce(head, 0);
    before := coalesce(before, 0);
    first_position := head + 1;
    recorded_at := greatest(clock_timestamp(), now);
    recorded := CASE p_expected WHEN -1 THEN true WHEN -2 THEN before > 0 ELSE before = p_expected END;
    IF recorded THEN
        INSERT INTO "eventstore_golden".events (position, version, recorded_at, occurred_at, event_id, type_key, schema,
                                     stream, tags, metadata, payload)
        SELECT head + i, before + i, recorded_at, coalesce(e_occurred[i], recorded_at), e_id[i], e_type[i], e_schema[i],
               p_stream, e_tags[i]::text[], e_metadata[i], e_payload[i]
          FROM generate_series(1, cardinality(e_id)) AS i;
    END IF;
    RETURN NEXT;
END $$;


--
-- Name: append_only(); Type: FUNCTION; Schema: eventstore_golden; Owner: -
--

CREATE FUNCTION eventstore_golden.append_only() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RAISE EXCEPTION '% on %.%: the event log is append-only', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'ES010';
END $$;


--
-- Name: json(bytea); Type: FUNCTION; Schema: eventstore_golden; Owner: -
--

CREATE FUNCTION eventstore_golden.json(p_bytes bytea) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
    RETURN convert_from(p_bytes, 'UTF8')::jsonb;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;


--
-- Name: matching(text[], text[], text[], text[], bigint, bigint, bigint); Type: FUNCTION; Schema: eventstore_golden; Owner: -
--

CREATE FUNCTION eventstore_golden.matching(p_names text[], p_tags text[], p_categories text[], p_keys text[], p_after bigint, p_until bigint, p_limit bigint) RETURNS SETOF bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET jit TO 'off'
    AS $$
DECLARE
    found_positions bigint[] := '{}';
    item_names text[]; item_tags text[]; item_types int[]; item_streams text[];
BEGIN
    FOR i IN 1 .. cardinality(p_names) LOOP
        item_names := p_names[i]::text[];
        item_tags := p_tags[i]::text[];
        item_types := NULL;                              -- of all types
        IF item_names <> '{}' OR p_categories[i] IS NOT NULL THEN
            item_types := ARRAY(SELECT t.type_key FROM "eventstore_golden".event_types AS t
                                 WHERE (item_names = '{}' OR t.name = ANY (item_names))
                                   AND (p_categories[i] IS NULL OR t.category = p_categories[i]));
            CONTINUE WHEN item_types = '{}';
        END IF;
        item_streams := NULL;                            -- in all streams
        IF p_keys[i] IS NOT NULL THEN
            item_streams := ARRAY(SELECT DISTINCT t.category || '-' || p_keys[i] FROM "eventstore_golden".event_types AS t
                                   WHERE item_types IS NULL OR t.type_key = ANY (item_types));
        END IF;
        -- Few events: look at each. With tags also where it is not so few, since their index knows no order.
        IF p_until - p_after <= (CASE WHEN item_tags <> '{}' AND item_streams IS NULL THEN 20000 ELSE 2000 END) THEN
            found_positions := found_positions || ARRAY(
                SELECT e.position FROM "eventstore_golden".events AS e
                 WHERE e.position > p_after AND e.position <= p_until
                   AND (item_types IS NULL OR e.type_key = ANY (item_types))
                   AND (item_streams IS NULL OR e.stream = ANY (item_streams))
                   AND e.tags @> item_tags
                 ORDER BY e.position LIMIT p_limit);
        ELSIF item_streams IS NOT NULL THEN
            -- "+ 0": else it reads all of the primary key, to intersect it with the few of the stream.
            found_positions := found_positions || ARRAY(
                SELECT one.position FROM unnest(item_streams) AS s (stream)
                 CROSS JOIN LATERAL (SELECT e.position FROM "eventstore_golden".events AS e
                                      WHERE e.stream = s.stream AND e.position + 0 > p_after AND e.position + 0 <= p_until
                                        AND (item_types IS NULL OR e.type_key = ANY (item_types))
                                        AND e.tags @> item_tags
                                      ORDER BY e.version LIMIT p_limit) AS one
                 ORDER BY one.position LIMIT p_limit);
        ELSIF item_tags <> '{}' THEN
            -- Materialized: else the limit tempts the planner to walk the log. "+ 0" as above.
            found_positions := found_positions || ARRAY(
                WITH tagged AS MATERIALIZED (
                    SELECT e.position FROM "eventstore_golden".events AS e
                     WHERE e.tags <> '{}' AND e.tags @> item_tags
                       AND e.position + 0 > p_after AND e.position + 0 <= p_until
                       AND (item_types IS NULL OR e.type_key = ANY (item_types)))
                SELECT tagged.position FROM tagged ORDER BY tagged.position LIMIT p_limit);
        ELSIF item_types IS NOT NULL THEN
            -- Rows are compared, which only the index on (type, position) can do: the primary key has the same order,
            -- and would throw away all that is of other types.
            found_positions := found_positions || ARRAY(
                SELECT one.position FROM unnest(item_types) AS t (type_key)
                 CROSS JOIN LATERAL (SELECT e.position FROM "eventstore_golden".events AS e
                                      WHERE (e.type_key, e.position) > (t.type_key, p_after)
                                        AND (e.type_key, e.position) <= (t.type_key, p_until)
                                      ORDER BY e.type_key, e.position LIMIT p_limit) AS one
                 ORDER BY one.position LIMIT p_limit);
        ELSE
            found_positions := found_positions || ARRAY(
                SELECT e.position FROM "eventstore_golden".events AS e
                 WHERE e.position > p_after AND e.position <= p_until ORDER BY e.position LIMIT p_limit);
        END IF;
    END LOOP;
    RETURN QUERY SELECT DISTINCT place FROM unnest(found_positions) AS place ORDER BY place LIMIT p_limit;
END $$;


--
-- Name: matching_backwards(text[], text[], text[], text[], bigint, bigint, bigint); Type: FUNCTION; Schema: eventstore_golden; Owner: -
--

CREATE FUNCTION eventstore_golden.matching_backwards(p_names text[], p_tags text[], p_categories text[], p_keys text[], p_after bigint, p_until bigint, p_limit bigint) RETURNS SETOF bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET jit TO 'off'
    AS $$
DECLARE
    found_positions bigint[] := '{}';
    item_names text[]; item_tags text[]; item_types int[]; item_streams text[];
BEGIN
    FOR i IN 1 .. cardinality(p_names) LOOP
        item_names := p_names[i]::text[];
        item_tags := p_tags[i]::text[];
        item_types := NULL;
        IF item_names <> '{}' OR p_categories[i] IS NOT NULL THEN
            item_types := ARRAY(SELECT t.type_key FROM "eventstore_golden".event_types AS t
                                 WHERE (item_names = '{}' OR t.name = ANY (item_names))
                                   AND (p_categories[i] IS NULL OR t.category = p_categories[i]));
            CONTINUE WHEN item_types = '{}';
        END IF;
        item_streams := NULL;
        IF p_keys[i] IS NOT NULL THEN
            item_streams := ARRAY(SELECT DISTINCT t.category || '-' || p_keys[i] FROM "eventstore_golden".event_types AS t
                                   WHERE item_types IS NULL OR t.type_key = ANY (item_types));
        END IF;
        IF p_until - p_after <= (CASE WHEN item_tags <> '{}' AND item_streams IS NULL THEN 20000 ELSE 2000 END) THEN
            found_positions := found_positions || ARRAY(
                SELECT e.position FROM "eventstore_golden".events AS e
                 WHERE e.position > p_after AND e.position <= p_until
                   AND (item_types IS NULL OR e.type_key = ANY (item_types))
                   AND (item_streams IS NULL OR e.stream = ANY (item_streams))
                   AND e.tags @> item_tags
                 ORDER BY e.position DESC LIMIT p_limit);
        ELSIF item_streams IS NOT NULL THEN
            found_positions := found_positions || ARRAY(
                SELECT one.position FROM unnest(item_streams) AS s (stream)
                 CROSS JOIN LATERAL (SELECT e.position FROM "eventstore_golden".events AS e
                                      WHERE e.stream = s.stream AND e.position + 0 > p_after AND e.position + 0 <= p_until
                                        AND (item_types IS NULL OR e.type_key = ANY (item_types))
                                        AND e.tags @> item_tags
                                      ORDER BY e.version DESC LIMIT p_limit) AS one
                 ORDER BY one.position DESC LIMIT p_limit);
        ELSIF item_tags <> '{}' THEN
            found_positions := found_positions || ARRAY(
                WITH tagged AS MATERIALIZED (
                    SELECT e.position FROM "eventstore_golden".events AS e
                     WHERE e.tags <> '{}' AND e.tags @> item_tags
                       AND e.position + 0 > p_after AND e.position + 0 <= p_until
                       AND (item_types IS NULL OR e.type_key = ANY (item_types)))
                SELECT tagged.position FROM tagged ORDER BY tagged.position DESC LIMIT p_limit);
        ELSIF item_types IS NOT NULL THEN
            found_positions := found_positions || ARRAY(
                SELECT one.position FROM unnest(item_types) AS t (type_key)
                 CROSS JOIN LATERAL (SELECT e.position FROM "eventstore_golden".events AS e
                                      WHERE (e.type_key, e.position) > (t.type_key, p_after)
                                        AND (e.type_key, e.position) <= (t.type_key, p_until)
                                      ORDER BY e.type_key DESC, e.position DESC LIMIT p_limit) AS one
                 ORDER BY one.position DESC LIMIT p_limit);
        ELSE
            found_positions := found_positions || ARRAY(
                SELECT e.position FROM "eventstore_golden".events AS e
                 WHERE e.position > p_after AND e.position <= p_until ORDER BY e.position DESC LIMIT p_limit);
        END IF;
    END LOOP;
    RETURN QUERY SELECT DISTINCT place FROM unnest(found_positions) AS place ORDER BY place DESC LIMIT p_limit;
END $$;


--
-- Name: may_append(integer[], text[], text[]); Type: FUNCTION; Schema: eventstore_golden; Owner: -
--

CREATE FUNCTION eventstore_golden.may_append(t_key integer[], t_category text[], t_name text[]) RETURNS void
    LANGUAGE plpgsql
    AS $$                          -- only called by functions that have set the search path
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
        PERFORM FROM "eventstore_golden".event_types AS t
          WHERE t.type_key = t_key[i] AND t.category = t_category[i] AND t.name = t_name[i];
        IF NOT FOUND THEN
            RAISE EXCEPTION 'an event type is not the one it was' USING ERRCODE = 'ES002';
        END IF;
    END LOOP;
END $$;


--
-- Name: position_at(timestamp with time zone); Type: FUNCTION; Schema: eventstore_golden; Owner: -
--

CREATE FUNCTION eventstore_golden.position_at(p_time timestamp with time zone) RETURNS bigint
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
    low bigint := 0;
    high bigint;
    middle bigint;
BEGIN
    SELECT coalesce(max(e.position), 0) INTO high FROM "eventstore_golden".events AS e;
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        IF (SELECT e.recorded_at FROM "eventstore_golden".events AS e WHERE e.position = middle) <= p_time THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END $$;


--
-- Name: type_keys(text[], text[]); Type: FUNCTION; Schema: eventstore_golden; Owner: -
--

CREATE FUNCTION eventstore_golden.type_keys(p_categories text[], p_names text[]) RETURNS TABLE(type_key integer, category text, name text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
BEGIN
    IF current_setting('lock_timeout') = '0' THEN
        -- Who waits for another to commit the same type may be waiting for itself.
        PERFORM set_config('lock_timeout', '10s', true);
    END IF;
    INSERT INTO "eventstore_golden".event_types (category, name)
    SELECT DISTINCT n.category, n.name FROM unnest(p_categories, p_names) AS n (category, name)
     ORDER BY n.category, n.name                         -- two who add the same wait for each other one way round
    ON CONFLICT DO NOTHING;
    -- Another statement: it sees what others have just added.
    RETURN QUERY SELECT t.type_key, t.category, t.name
                   FROM unnest(p_categories, p_names) AS n (category, name)
                   JOIN "eventstore_golden".event_types AS t ON t.category = n.category AND t.name = n.name;
END $$;


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: balance@1; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden."balance@1" (
    key text NOT NULL COLLATE pg_catalog."C",
    owner text COLLATE pg_catalog."C",
    balance bigint
);


--
-- Name: balance@1~beside; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden."balance@1~beside" (
    key text NOT NULL COLLATE pg_catalog."C",
    owner text COLLATE pg_catalog."C",
    balance bigint
);


--
-- Name: balance@current; Type: VIEW; Schema: eventstore_golden; Owner: -
--

CREATE VIEW eventstore_golden."balance@current" AS
 SELECT "balance@1".key,
    "balance@1".owner,
    "balance@1".balance
   FROM eventstore_golden."balance@1";


--
-- Name: checkpoints; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden.checkpoints (
    projection text NOT NULL COLLATE pg_catalog."C",
    from_slot integer NOT NULL,
    to_slot integer NOT NULL,
    "position" bigint NOT NULL,
    event_id uuid,
    epoch bigint NOT NULL,
    owner uuid,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT checkpoints_slots CHECK ((from_slot < to_slot))
)
WITH (fillfactor='30');


--
-- Name: dead_letters; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden.dead_letters (
    key text NOT NULL COLLATE pg_catalog."C",
    projection text COLLATE pg_catalog."C",
    of text COLLATE pg_catalog."C",
    whole_stream boolean,
    "position" bigint,
    event uuid,
    stream text COLLATE pg_catalog."C",
    version bigint,
    name text COLLATE pg_catalog."C",
    error text COLLATE pg_catalog."C",
    attempts bigint,
    parked_at timestamp with time zone,
    retry_at timestamp with time zone,
    skipped text COLLATE pg_catalog."C"
);


--
-- Name: enrolled@1; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden."enrolled@1" (
    key text NOT NULL COLLATE pg_catalog."C",
    courses bigint,
    last text COLLATE pg_catalog."C",
    at timestamp with time zone,
    "all" jsonb
);


--
-- Name: enrolled@1~beside; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden."enrolled@1~beside" (
    key text NOT NULL COLLATE pg_catalog."C",
    courses bigint,
    last text COLLATE pg_catalog."C",
    at timestamp with time zone,
    "all" jsonb
);


--
-- Name: enrolled@current; Type: VIEW; Schema: eventstore_golden; Owner: -
--

CREATE VIEW eventstore_golden."enrolled@current" AS
 SELECT "enrolled@1".key,
    "enrolled@1".courses,
    "enrolled@1".last,
    "enrolled@1".at,
    "enrolled@1"."all"
   FROM eventstore_golden."enrolled@1";


--
-- Name: event_types; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden.event_types (
    type_key integer NOT NULL,
    category text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C"
);


--
-- Name: event_types_type_key_seq; Type: SEQUENCE; Schema: eventstore_golden; Owner: -
--

ALTER TABLE eventstore_golden.event_types ALTER COLUMN type_key ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME eventstore_golden.event_types_type_key_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: events; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden.events (
    "position" bigint NOT NULL,
    version bigint NOT NULL,
    recorded_at timestamp with time zone NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    event_id uuid NOT NULL,
    type_key integer NOT NULL,
    schema integer NOT NULL,
    stream text NOT NULL COLLATE pg_catalog."C",
    tags text[] NOT NULL COLLATE pg_catalog."C",
    metadata bytea NOT NULL,
    payload bytea NOT NULL,
    CONSTRAINT events_position CHECK (("position" > 0)),
    CONSTRAINT events_version CHECK ((version > 0))
)
WITH (fillfactor='100', autovacuum_vacuum_insert_scale_factor='0.02', autovacuum_vacuum_insert_threshold='50000', autovacuum_analyze_scale_factor='0.02', autovacuum_freeze_min_age='0');


--
-- Name: log; Type: VIEW; Schema: eventstore_golden; Owner: -
--

CREATE VIEW eventstore_golden.log AS
 SELECT e."position",
    e.stream,
    e.version,
    t.name AS event,
    eventstore_golden.json(e.payload) AS data,
    e.tags,
    e.recorded_at,
    e.occurred_at,
    eventstore_golden.json(e.metadata) AS metadata,
    e.schema,
    e.event_id
   FROM (eventstore_golden.events e
     JOIN eventstore_golden.event_types t USING (type_key));


--
-- Name: migrations; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden.migrations (
    version integer NOT NULL,
    checksum uuid NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);


--
-- Name: nodes; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden.nodes (
    key text NOT NULL COLLATE pg_catalog."C",
    beat bigint,
    beat_at timestamp with time zone,
    started_at timestamp with time zone,
    process text COLLATE pg_catalog."C",
    projections jsonb
);


--
-- Name: projections; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden.projections (
    key text NOT NULL COLLATE pg_catalog."C",
    state text COLLATE pg_catalog."C",
    reason text COLLATE pg_catalog."C",
    since timestamp with time zone,
    target bigint,
    built_at timestamp with time zone,
    promoted_at timestamp with time zone,
    pace bigint
);


--
-- Name: requests; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden.requests (
    key text NOT NULL COLLATE pg_catalog."C",
    projection text COLLATE pg_catalog."C",
    of text COLLATE pg_catalog."C",
    what jsonb,
    asked_at timestamp with time zone,
    answer jsonb,
    error text COLLATE pg_catalog."C"
);


--
-- Name: reshards; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden.reshards (
    key text NOT NULL COLLATE pg_catalog."C",
    shards bigint,
    until bigint,
    asked_at timestamp with time zone
);


--
-- Name: snapshots; Type: TABLE; Schema: eventstore_golden; Owner: -
--

CREATE TABLE eventstore_golden.snapshots (
    shape bigint NOT NULL,
    version bigint NOT NULL,
    "position" bigint NOT NULL,
    recorded_at timestamp with time zone NOT NULL,
    checksum bigint NOT NULL,
    event_id uuid NOT NULL,
    boundary text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    state bytea NOT NULL
)
WITH (fillfactor='50');


--
-- Data for Name: balance@1; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--

INSERT INTO eventstore_golden."balance@1" VALUES ('ann', 'Ann "ß"', 100);
INSERT INTO eventstore_golden."balance@1" VALUES ('bob', 'Bob', 5);


--
-- Data for Name: balance@1~beside; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--

INSERT INTO eventstore_golden."balance@1~beside" VALUES ('ann', 'Ann "ß"', 100);
INSERT INTO eventstore_golden."balance@1~beside" VALUES ('bob', 'Bob', 5);


--
-- Data for Name: checkpoints; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--

INSERT INTO eventstore_golden.checkpoints VALUES ('balance@1~beside', 0, 1024, 9, '01920000-0000-7000-8000-000000000008', 1795996041096750, NULL, '2026-11-29 23:47:21.177254+00');
INSERT INTO eventstore_golden.checkpoints VALUES ('balance@1', 0, 1024, 9, '01920000-0000-7000-8000-000000000008', 1795996041096752, NULL, '2026-11-29 23:47:21.356029+00');
INSERT INTO eventstore_golden.checkpoints VALUES ('enrolled@1', 0, 1024, 9, '01920000-0000-7000-8000-000000000008', 1795996040804616, NULL, '2026-11-29 23:47:21.364032+00');
INSERT INTO eventstore_golden.checkpoints VALUES ('enrolled@1~beside', 0, 512, 9, '01920000-0000-7000-8000-000000000008', 1795996041277668, NULL, '2026-11-29 23:47:21.366432+00');
INSERT INTO eventstore_golden.checkpoints VALUES ('enrolled@1~beside', 512, 1024, 9, '01920000-0000-7000-8000-000000000008', 1795996041277668, NULL, '2026-11-29 23:47:21.366489+00');


--
-- Data for Name: dead_letters; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--

INSERT INTO eventstore_golden.dead_letters VALUES ('balance@1~beside/00000000000000000003/key/139f1e0a-1bdc-56c8-bfd4-b566e22701df', 'balance@1~beside', 'bob', false, 3, '01920000-0000-7000-82fc-5e9350ff5ce1', 'account-bob', 2, 'account.deposited', 'the row was refused', 0, '2026-11-29 23:47:21.372892+00', NULL, NULL);
INSERT INTO eventstore_golden.dead_letters VALUES ('balance@1/00000000000000000003/key/eec248ae-f27e-5be8-b0ce-00e994ef393c', 'balance@1', 'zoe', false, 3, '01920000-0000-7000-82fc-5e9350ff5ce1', 'account-bob', 2, 'account.deposited', 'the row was refused', 0, '2026-11-29 23:47:21.375714+00', NULL, NULL);


--
-- Data for Name: enrolled@1; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--

INSERT INTO eventstore_golden."enrolled@1" VALUES ('ann', 1, 'rust', '2026-11-29 23:47:20.548477+00', '["rust"]');


--
-- Data for Name: enrolled@1~beside; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--

INSERT INTO eventstore_golden."enrolled@1~beside" VALUES ('ann', 1, 'rust', '2026-11-29 23:47:20.548477+00', '["rust"]');


--
-- Data for Name: event_types; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--

INSERT INTO eventstore_golden.event_types OVERRIDING SYSTEM VALUE VALUES (1, 'account', 'account.deposited');
INSERT INTO eventstore_golden.event_types OVERRIDING SYSTEM VALUE VALUES (2, 'account', 'account.opened');
INSERT INTO eventstore_golden.event_types OVERRIDING SYSTEM VALUE VALUES (3, 'course', 'campus.course_opened');
INSERT INTO eventstore_golden.event_types OVERRIDING SYSTEM VALUE VALUES (4, 'student', 'campus.student_joined');
INSERT INTO eventstore_golden.event_types OVERRIDING SYSTEM VALUE VALUES (5, 'course', 'campus.enrolled');
INSERT INTO eventstore_golden.event_types OVERRIDING SYSTEM VALUE VALUES (6, 'odd', 'it''s odd');
INSERT INTO eventstore_golden.event_types OVERRIDING SYSTEM VALUE VALUES (7, 'odd', 'nul');


--
-- Data for Name: events; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--

INSERT INTO eventstore_golden.events VALUES (1, 1, '2026-11-29 23:47:20.459026+00', '2001-09-09 01:46:40.000001+00', '01920000-0000-7000-98d4-da122034fe5a', 2, 1, 'account-ann', '{}', '\x7b2224636f6d6d616e644964223a2230313932303030302d303030302d373030302d383030302d303030303030303030303031222c2224636f7272656c6174696f6e4964223a2230313932303030302d303030302d373030302d383030302d303030303030303030303032222c22246163746f72223a22696d706f72746572222c2224736f75726365223a22676f6c64656e222c226c697374223a5b312c6e756c6c2c7b2264656570223a302e317d5d7d', '\x7b226f776e6572223a22416e6e205c22c39f5c22227d');
INSERT INTO eventstore_golden.events VALUES (2, 1, '2026-11-29 23:47:20.459026+00', '2001-09-09 01:46:40.000001+00', '01920000-0000-7000-94f5-4b3aa6c2e33e', 2, 1, 'account-bob', '{}', '\x7b2224636f6d6d616e644964223a2230313932303030302d303030302d373030302d383030302d303030303030303030303031222c2224636f7272656c6174696f6e4964223a2230313932303030302d303030302d373030302d383030302d303030303030303030303032222c22246163746f72223a22696d706f72746572222c2224736f75726365223a22676f6c64656e222c226c697374223a5b312c6e756c6c2c7b2264656570223a302e317d5d7d', '\x7b226f776e6572223a22426f62227d');
INSERT INTO eventstore_golden.events VALUES (3, 2, '2026-11-29 23:47:20.459026+00', '2001-09-09 01:46:40.000001+00', '01920000-0000-7000-82fc-5e9350ff5ce1', 1, 1, 'account-bob', '{}', '\x7b2224636f6d6d616e644964223a2230313932303030302d303030302d373030302d383030302d303030303030303030303031222c2224636f7272656c6174696f6e4964223a2230313932303030302d303030302d373030302d383030302d303030303030303030303032222c22246163746f72223a22696d706f72746572222c2224736f75726365223a22676f6c64656e222c226c697374223a5b312c6e756c6c2c7b2264656570223a302e317d5d7d', '\x7b22616d6f756e74223a357d');
INSERT INTO eventstore_golden.events VALUES (4, 2, '2026-11-29 23:47:20.494488+00', '2026-11-29 23:47:20.494488+00', '01920000-0000-7000-a565-f7040cb7c5d6', 1, 1, 'account-ann', '{}', '\x7b2224636f6d6d616e644964223a2230313932303030302d303030302d373030302d383030302d303030303030303030303033222c2224736f75726365223a22676f6c64656e222c222472657175657374223a2239323036303437312d663865362d356531632d386433312d333036663531613632323061227d', '\x7b22616d6f756e74223a3130307d');
INSERT INTO eventstore_golden.events VALUES (5, 1, '2026-11-29 23:47:20.528031+00', '2026-11-29 23:47:20.528031+00', '01920000-0000-7000-b038-a4c25405916a', 3, 1, 'course-rust', '{course:rust}', '\x7b2224636f6d6d616e644964223a2230313932303030302d303030302d373030302d383030302d303030303030303030303034222c2224736f75726365223a22676f6c64656e222c222472657175657374223a2235303062393264302d356461612d356363382d623037642d313064363639343330616335227d', '\x7b22636f75727365223a2272757374222c227365617473223a327d');
INSERT INTO eventstore_golden.events VALUES (6, 1, '2026-11-29 23:47:20.538205+00', '2026-11-29 23:47:20.538205+00', '01920000-0000-7000-b9f7-7989eca99467', 4, 1, 'student-ann', '{student:ann}', '\x7b2224636f6d6d616e644964223a2230313932303030302d303030302d373030302d383030302d303030303030303030303035222c2224736f75726365223a22676f6c64656e222c222472657175657374223a2266396134656137392d356434322d356630662d613636312d656636373535343830613864227d', '\x7b2273747564656e74223a22616e6e227d');
INSERT INTO eventstore_golden.events VALUES (7, 2, '2026-11-29 23:47:20.548477+00', '2026-11-29 23:47:20.548477+00', '01920000-0000-7000-9963-eb84c84483c1', 5, 1, 'course-rust', '{course:rust,student:ann}', '\x7b2224636f6d6d616e644964223a2230313932303030302d303030302d373030302d383030302d303030303030303030303036222c2224736f75726365223a22676f6c64656e222c222472657175657374223a2232646262646639372d663361352d353334322d396566342d613938376234616631613838227d', '\x7b22636f75727365223a2272757374222c2273747564656e74223a22616e6e227d');
INSERT INTO eventstore_golden.events VALUES (8, 1, '2026-11-29 23:47:20.554329+00', '2026-11-29 23:47:20.554329+00', '01920000-0000-7000-8000-000000000007', 6, 7, 'odd-it''s/"here"', '{"about:{x,\"y\"\\}",second:ключ}', '\x7b2224636f6d6d616e644964223a2230303030303030302d303030302d303030302d303030302d303030303030303030303030227d', '\x00ff225c27');
INSERT INTO eventstore_golden.events VALUES (9, 2, '2026-11-29 23:47:20.554329+00', '2026-11-29 23:47:20.554329+00', '01920000-0000-7000-8000-000000000008', 7, 1, 'odd-it''s/"here"', '{}', '\x7b2224636f6d6d616e644964223a2230303030303030302d303030302d303030302d303030302d303030303030303030303030227d', '\x7b226e756c223a225c7530303030227d');


--
-- Data for Name: migrations; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--

INSERT INTO eventstore_golden.migrations VALUES (1, 'e2ba06d2-ba27-577b-863e-03d3a1585d1f', '2026-11-29 23:47:20.420793+00');
INSERT INTO eventstore_golden.migrations VALUES (2, '7f8637a8-f4b4-5db7-9381-e628fd968e67', '2026-11-29 23:47:20.423693+00');


--
-- Data for Name: nodes; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--



--
-- Data for Name: projections; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--

INSERT INTO eventstore_golden.projections VALUES ('enrolled@1', 'active', NULL, '2026-11-29 23:47:20.777658+00', 9, '2026-11-29 23:47:21.03991+00', '2026-11-29 23:47:21.03991+00', NULL);
INSERT INTO eventstore_golden.projections VALUES ('balance@1', 'active', NULL, '2026-11-29 23:47:20.736886+00', 9, '2026-11-29 23:47:21.14316+00', '2026-11-29 23:47:20.99402+00', NULL);
INSERT INTO eventstore_golden.projections VALUES ('balance@1~beside', 'kept', NULL, '2026-11-29 23:47:21.164279+00', 9, '2026-11-29 23:47:20.99402+00', NULL, NULL);
INSERT INTO eventstore_golden.projections VALUES ('enrolled@1~beside', 'active', NULL, '2026-11-29 23:47:21.206934+00', 9, '2026-11-29 23:47:21.332571+00', NULL, NULL);


--
-- Data for Name: requests; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--



--
-- Data for Name: reshards; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--



--
-- Data for Name: snapshots; Type: TABLE DATA; Schema: eventstore_golden; Owner: -
--



--
-- Name: event_types_type_key_seq; Type: SEQUENCE SET; Schema: eventstore_golden; Owner: -
--

SELECT pg_catalog.setval('eventstore_golden.event_types_type_key_seq', 7, true);


--
-- Name: balance@1~beside balance@1_pkey; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden."balance@1~beside"
    ADD CONSTRAINT "balance@1_pkey" PRIMARY KEY (key);


--
-- Name: balance@1 balance@1~beside_pkey; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden."balance@1"
    ADD CONSTRAINT "balance@1~beside_pkey" PRIMARY KEY (key);


--
-- Name: checkpoints checkpoints_pk; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.checkpoints
    ADD CONSTRAINT checkpoints_pk PRIMARY KEY (projection, from_slot);


--
-- Name: dead_letters dead_letters_pkey; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (key);


--
-- Name: enrolled@1 enrolled@1_pkey; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden."enrolled@1"
    ADD CONSTRAINT "enrolled@1_pkey" PRIMARY KEY (key);


--
-- Name: enrolled@1~beside enrolled@1~beside_pkey; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden."enrolled@1~beside"
    ADD CONSTRAINT "enrolled@1~beside_pkey" PRIMARY KEY (key);


--
-- Name: event_types event_types_name; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.event_types
    ADD CONSTRAINT event_types_name UNIQUE (category, name);


--
-- Name: event_types event_types_pk; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.event_types
    ADD CONSTRAINT event_types_pk PRIMARY KEY (type_key);


--
-- Name: events events_event_id; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.events
    ADD CONSTRAINT events_event_id UNIQUE (event_id);


--
-- Name: events events_pk; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.events
    ADD CONSTRAINT events_pk PRIMARY KEY ("position") WITH (fillfactor='100');


--
-- Name: events events_stream; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.events
    ADD CONSTRAINT events_stream UNIQUE (stream, version);


--
-- Name: migrations migrations_pk; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.migrations
    ADD CONSTRAINT migrations_pk PRIMARY KEY (version);


--
-- Name: nodes nodes_pkey; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.nodes
    ADD CONSTRAINT nodes_pkey PRIMARY KEY (key);


--
-- Name: projections projections_pkey; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.projections
    ADD CONSTRAINT projections_pkey PRIMARY KEY (key);


--
-- Name: requests requests_pkey; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.requests
    ADD CONSTRAINT requests_pkey PRIMARY KEY (key);


--
-- Name: reshards reshards_pkey; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.reshards
    ADD CONSTRAINT reshards_pkey PRIMARY KEY (key);


--
-- Name: snapshots snapshots_pk; Type: CONSTRAINT; Schema: eventstore_golden; Owner: -
--

ALTER TABLE ONLY eventstore_golden.snapshots
    ADD CONSTRAINT snapshots_pk PRIMARY KEY (boundary, kind);


--
-- Name: balance@1_owner_idx; Type: INDEX; Schema: eventstore_golden; Owner: -
--

CREATE INDEX "balance@1_owner_idx" ON eventstore_golden."balance@1~beside" USING btree (owner);


--
-- Name: balance@1~beside_owner_idx; Type: INDEX; Schema: eventstore_golden; Owner: -
--

CREATE INDEX "balance@1~beside_owner_idx" ON eventstore_golden."balance@1" USING btree (owner);


--
-- Name: dead_letters_projection_idx; Type: INDEX; Schema: eventstore_golden; Owner: -
--

CREATE INDEX dead_letters_projection_idx ON eventstore_golden.dead_letters USING btree (projection);


--
-- Name: events_tags; Type: INDEX; Schema: eventstore_golden; Owner: -
--

CREATE INDEX events_tags ON eventstore_golden.events USING gin (tags) WITH (fastupdate=off) WHERE (tags <> '{}'::text[]);


--
-- Name: events_type; Type: INDEX; Schema: eventstore_golden; Owner: -
--

CREATE INDEX events_type ON eventstore_golden.events USING btree (type_key, "position");


--
-- Name: event_types append_only; Type: TRIGGER; Schema: eventstore_golden; Owner: -
--

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON eventstore_golden.event_types FOR EACH STATEMENT EXECUTE FUNCTION eventstore_golden.append_only();

ALTER TABLE eventstore_golden.event_types ENABLE ALWAYS TRIGGER append_only;


--
-- Name: events append_only; Type: TRIGGER; Schema: eventstore_golden; Owner: -
--

CREATE TRIGGER append_only BEFORE DELETE OR UPDATE ON eventstore_golden.events FOR EACH STATEMENT EXECUTE FUNCTION eventstore_golden.append_only();

ALTER TABLE eventstore_golden.events ENABLE ALWAYS TRIGGER append_only;


--
-- Name: event_types append_only_truncate; Type: TRIGGER; Schema: eventstore_golden; Owner: -
--

CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON eventstore_golden.event_types FOR EACH STATEMENT EXECUTE FUNCTION eventstore_golden.append_only();

ALTER TABLE eventstore_golden.event_types ENABLE ALWAYS TRIGGER append_only_truncate;


--
-- Name: events append_only_truncate; Type: TRIGGER; Schema: eventstore_golden; Owner: -
--

CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON eventstore_golden.events FOR EACH STATEMENT EXECUTE FUNCTION eventstore_golden.append_only();

ALTER TABLE eventstore_golden.events ENABLE ALWAYS TRIGGER append_only_truncate;


--
-- PostgreSQL database dump complete
--


