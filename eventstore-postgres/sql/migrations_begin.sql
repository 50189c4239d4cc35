-- Brings the log in the schema {schema} from migration {from} to {to}, in one transaction, whatever else runs. To be
-- run by `psql -v ON_ERROR_STOP=1 -f` or any other tool, as whoever is to own the log.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
