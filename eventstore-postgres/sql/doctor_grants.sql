-- The rights of roles other than the owner beyond reading the log and appending by its functions; no row if there are
-- none. A role that may write to the table of the lock can hold up every append.
WITH log AS (SELECT to_regnamespace('{schema}') AS schema),
granted AS (
    SELECT a.grantee, a.privilege_type, c.relname::text AS object
      FROM log JOIN pg_catalog.pg_class AS c ON c.relnamespace = log.schema
     CROSS JOIN LATERAL aclexplode(c.relacl) AS a
     WHERE c.relname IN ('events', 'event_types', 'append_lock', 'identity', 'migrations')
       AND a.grantee <> c.relowner AND a.privilege_type <> 'SELECT'
     UNION ALL
    SELECT a.grantee, a.privilege_type, 'the schema'
      FROM log JOIN pg_catalog.pg_namespace AS n ON n.oid = log.schema
     CROSS JOIN LATERAL aclexplode(n.nspacl) AS a
     WHERE a.grantee <> n.nspowner AND a.privilege_type <> 'USAGE'
     UNION ALL
    SELECT a.grantee, a.privilege_type, p.proname::text
      FROM log JOIN pg_catalog.pg_proc AS p ON p.pronamespace = log.schema
     CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
     WHERE p.prosecdef AND p.proname <> 'position_at' AND a.grantee = 0)
SELECT format('%s has %s on %s', CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee)::text END,
              string_agg(g.privilege_type, ', ' ORDER BY g.privilege_type), g.object)
  FROM granted AS g GROUP BY g.grantee, g.object
 UNION ALL
SELECT format('%s is a member of %s', r.rolname, m.roleid::regrole)
  FROM pg_catalog.pg_auth_members AS m JOIN pg_catalog.pg_roles AS r ON r.oid = m.member
 WHERE m.roleid IN (to_regrole('pg_write_all_data'), to_regrole('pg_maintain')) AND NOT r.rolsuper
 ORDER BY 1
