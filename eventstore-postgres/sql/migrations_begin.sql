-- Migrates the log in the schema {schema} from migration {from} to {to}, in one transaction, while other sessions work.
-- Run it by `psql -v ON_ERROR_STOP=1 -f` or another tool, as the role that is to own the log.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
