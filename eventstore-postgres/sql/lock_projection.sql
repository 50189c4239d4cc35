-- One at a time makes, splits and joins the shards of a projection, also of one that has none yet. Of a process that is
-- frozen in the middle, the server ends it: so that others can go on.
SELECT pg_advisory_xact_lock(hashtextextended($1, '{schema}'::regnamespace::oid::bigint)),
       set_config('idle_in_transaction_session_timeout', '10s', true)
