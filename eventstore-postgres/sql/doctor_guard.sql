-- What differs from the migrations in the guard of the events and their types; no row if nothing does. Checks that the
-- triggers always fire, before any UPDATE (16), DELETE (8) and TRUNCATE (32), once a statement (2), whatever the
-- columns and the values; that nothing else can change, hide or add what is read or written; and that the keys exist
-- that keep versions and ids unique.
WITH log AS (
    SELECT c.oid, c.relname, c.relnamespace, c.relrowsecurity OR c.relforcerowsecurity AS hides
      FROM pg_catalog.pg_class AS c
     WHERE c.relnamespace = to_regnamespace('{schema}') AND c.relname IN ('events', 'event_types')),
trigger AS (
    SELECT * FROM (VALUES ('append_only', 26), ('append_only_truncate', 34)) AS t (name, kind))
SELECT format('trigger %s of %s is %s', g.name, l.relname, CASE WHEN t.oid IS NULL THEN 'gone' ELSE 'not as it was made' END)
  FROM log AS l CROSS JOIN trigger AS g
  LEFT JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = l.oid AND t.tgname = g.name
 WHERE t.oid IS NULL OR t.tgtype <> g.kind OR t.tgenabled <> 'A' OR t.tgqual IS NOT NULL OR t.tgattr::text <> ''
    OR t.tgfoid IS DISTINCT FROM (SELECT f.oid FROM pg_catalog.pg_proc AS f
                                   WHERE f.proname = 'append_only' AND f.pronamespace = l.relnamespace AND f.pronargs = 0)
 UNION ALL
SELECT format('trigger %s of %s is not of this library', t.tgname, l.relname)
  FROM log AS l JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = l.oid
 WHERE NOT t.tgisinternal AND t.tgname NOT IN (SELECT name FROM trigger)
 UNION ALL
SELECT format('rule %s of %s is not of this library', r.rulename, l.relname)
  FROM log AS l JOIN pg_catalog.pg_rewrite AS r ON r.ev_class = l.oid
 UNION ALL
SELECT format('row security of %s hides rows from some roles', l.relname) FROM log AS l WHERE l.hides
 UNION ALL
SELECT format('table %s inherits from %s, and its rows are read with it', i.inhrelid::regclass, l.relname)
  FROM log AS l JOIN pg_catalog.pg_inherits AS i ON i.inhparent = l.oid
 UNION ALL
SELECT format('key %s is gone', k.name)
  FROM unnest(ARRAY['events_pk', 'events_stream', 'events_event_id', 'event_types_pk', 'event_types_name']) AS k (name)
 WHERE NOT EXISTS (SELECT FROM log AS l JOIN pg_catalog.pg_index AS x ON x.indrelid = l.oid
                     JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
                    WHERE i.relname = k.name AND x.indisunique AND x.indisvalid AND x.indpred IS NULL)
 ORDER BY 1
