-- The migrations that have been applied; the first release did not say from which release on each works.
SELECT version, checksum, applied_at, to_jsonb(m) ->> 'works_from' FROM {schema}.migrations AS m ORDER BY version
