-- The functions of the log that differ from the migrations; no row if none does. $1 their names, $2 their sources, $3
-- whether they run with the owner's rights, $4 their settings, as arrays in text. A second function of one of these
-- names counts, because it may be called instead.
SELECT n.name || CASE WHEN f.functions = 0 THEN ' is gone'
                      WHEN f.functions > 1 THEN ' is there more than once'
                      WHEN NOT f.same_body THEN ' was replaced'
                      ELSE ' runs with other rights or settings' END
  FROM unnest($1, $2, $3, $4) AS n (name, body, definer, settings)
 CROSS JOIN LATERAL (
     SELECT count(*) AS functions, bool_and(p.prosrc = n.body) AS same_body,
            bool_and(p.prosecdef = n.definer AND coalesce(p.proconfig, '{}') = n.settings::text[]
                     AND p.prolang = (SELECT l.oid FROM pg_catalog.pg_language AS l WHERE l.lanname = 'plpgsql')) AS same_rest
       FROM pg_catalog.pg_proc AS p
      WHERE p.pronamespace = to_regnamespace('{schema}') AND p.proname = n.name) AS f
 WHERE f.functions <> 1 OR NOT f.same_body OR NOT f.same_rest
 ORDER BY 1
