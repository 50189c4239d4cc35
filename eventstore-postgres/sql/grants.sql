-- The statements that grant on $2 what roles other than the owner may do with $1; none if $1 does not exist.
SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, $2::text,
              CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
              CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
  FROM pg_catalog.pg_class AS c
 CROSS JOIN LATERAL aclexplode(c.relacl) AS a
 WHERE c.oid = to_regclass($1) AND a.grantee <> c.relowner
