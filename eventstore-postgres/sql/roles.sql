-- Creates roles for the log in the schema {schema}. Run it as a role that may create roles, and again after each
-- migration.
--
--   {owner}
--       owns the log and migrates it. It need not log in between migrations.
--   {app}
--       the program: reads, appends by the functions, and owns the rows of read models, in {tables}. It cannot change,
--       delete, truncate or insert events, nor switch off what guards them.
--   {reader}
--       reads the log and the read models.
--
-- Give passwords to those that log in:  ALTER ROLE {app} PASSWORD '…'
-- A log-in of another name:             CREATE ROLE bank LOGIN PASSWORD '…' IN ROLE {app};
--                                       ALTER ROLE bank SET role = {app};
BEGIN;

DO $$
BEGIN
    IF to_regrole('{owner}') IS NULL THEN CREATE ROLE {owner} NOLOGIN; END IF;
    IF to_regrole('{app}') IS NULL THEN CREATE ROLE {app} LOGIN; END IF;
    IF to_regrole('{reader}') IS NULL THEN CREATE ROLE {reader} LOGIN; END IF;
END $$;

-- A node that vanishes during a transaction holds its locks no longer than this.
ALTER ROLE {app} SET idle_in_transaction_session_timeout = '1min';
ALTER ROLE {app} SET lock_timeout = '30s';

-- The owner owns the log. Its functions run with the owner's rights, so the owner should be no superuser.
CREATE SCHEMA IF NOT EXISTS {schema};
ALTER SCHEMA {schema} OWNER TO {owner};
REVOKE ALL ON SCHEMA {schema} FROM PUBLIC, {app}, {reader};
GRANT USAGE ON SCHEMA {schema} TO {app}, {reader};

-- The program owns the rows of read models, in a schema of their own: a role that may create objects beside the owner's
-- functions could have the functions call them.
CREATE SCHEMA IF NOT EXISTS {tables};
ALTER SCHEMA {tables} OWNER TO {app};
REVOKE ALL ON SCHEMA {tables} FROM PUBLIC;
GRANT USAGE ON SCHEMA {tables} TO {reader};

DO $$
DECLARE
    one record;
BEGIN
    -- Moves read models (`balance@1`) that were built in the schema of the log before there were roles.
    FOR one IN SELECT c.oid::regclass AS name FROM pg_catalog.pg_class AS c
                WHERE c.relnamespace = '{schema}'::regnamespace AND c.relkind = 'r' AND c.relname LIKE '%@%' LOOP
        EXECUTE format('ALTER TABLE %s SET SCHEMA {tables}', one.name);
    END LOOP;
    FOR one IN SELECT c.oid::regclass AS name FROM pg_catalog.pg_class AS c
                WHERE c.relnamespace = '{tables}'::regnamespace AND c.relkind IN ('r', 'v') LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO {app}', one.name);
    END LOOP;
    FOR one IN SELECT c.oid::regclass AS name FROM pg_catalog.pg_class AS c
                WHERE c.relnamespace = '{schema}'::regnamespace AND c.relkind IN ('r', 'v') LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO {owner}', one.name);
    END LOOP;
    FOR one IN SELECT f.oid::regprocedure AS name FROM pg_catalog.pg_proc AS f
                WHERE f.pronamespace = '{schema}'::regnamespace LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO {owner}', one.name);
    END LOOP;
END $$;

-- Every table of the log may be read, so that the log can be dumped.
REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC, {app}, {reader};
GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {app}, {reader};
REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM PUBLIC, {app}, {reader};
GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {app}, {reader};
GRANT SELECT ON ALL TABLES IN SCHEMA {tables} TO {reader};
ALTER DEFAULT PRIVILEGES FOR ROLE {app} IN SCHEMA {tables} GRANT SELECT ON TABLES TO {reader};

-- The program appends by the functions only.
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {app};

-- The program writes only these tables itself, whose content is derived from the log.
DO $$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['checkpoints', 'snapshots', 'projection_locks'] LOOP
        IF to_regclass('{schema}.' || one) IS NOT NULL THEN
            EXECUTE format('GRANT INSERT, UPDATE, DELETE ON {schema}.%I TO {app}', one);
        END IF;
    END LOOP;
END $$;

COMMIT;
