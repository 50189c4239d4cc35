-- The applied migrations. A log of release 0.1 lacks the column works_from, hence to_jsonb.
SELECT version, checksum, applied_at, to_jsonb(m) ->> 'works_from' FROM {schema}.migrations AS m ORDER BY version
