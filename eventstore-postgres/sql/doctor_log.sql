-- The table of events: its storage, and the rights of this role. No row if it does not exist.
SELECT c.relpersistence = 'p' AS logged,
       NOT EXISTS (SELECT FROM pg_options_to_table(c.reloptions)
                    WHERE option_name = 'autovacuum_enabled' AND NOT option_value::boolean) AS autovacuum,
       pg_get_userbyid(c.relowner)::text AS owner,
       pg_has_role(c.relowner, 'MEMBER') AS owns,
       has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS reads,
       has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER') AS changes,
       coalesce((SELECT bool_and(has_function_privilege(f.oid, 'EXECUTE')) FROM pg_catalog.pg_proc AS f
                  WHERE f.pronamespace = c.relnamespace AND f.prosecdef), false) AS appends
  FROM pg_catalog.pg_class AS c
 WHERE c.relnamespace = to_regnamespace('{schema}') AND c.relname = 'events' AND c.relkind = 'r'
