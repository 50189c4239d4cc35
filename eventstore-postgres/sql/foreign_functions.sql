-- A function of the log whose source names another schema than its own. $1: the functions whose source names a schema.
SELECT p.proname::text FROM pg_catalog.pg_proc AS p
 WHERE p.pronamespace = to_regnamespace('{schema}') AND p.proname = ANY ($1) AND position('{schema}.' IN p.prosrc) = 0
 ORDER BY 1 LIMIT 1
