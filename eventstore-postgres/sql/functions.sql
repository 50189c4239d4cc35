-- Creates the functions of the log in the schema {schema} again, in one transaction, while other sessions work. Run it
-- by `psql -v ON_ERROR_STOP=1 -f` or another tool, as the owner of the log.
BEGIN;

{functions}COMMIT;
