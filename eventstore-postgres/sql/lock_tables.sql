-- One at a time makes tables. Of a process that is frozen in the middle, the server ends it: so that others can start.
SELECT pg_advisory_xact_lock(1163088691, '{schema}'::regnamespace::oid::int4),
       set_config('idle_in_transaction_session_timeout', '10s', true)
