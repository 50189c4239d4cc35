-- Fails if another node has migrated meanwhile.
DO $$
BEGIN
    IF (SELECT count(*) FROM {schema}.migrations) <> {from} THEN
        RAISE EXCEPTION 'the log in the schema {schema} is not at migration {from}: print the script again';
    END IF;
END $$
