-- One at a time makes tables.
SELECT pg_advisory_xact_lock(1163088691, '{schema}'::regnamespace::oid::int4)
