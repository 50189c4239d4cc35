-- One node at a time migrates; the schema may not be there yet, so its name is the key. Of a process that is frozen in the
-- middle, the server ends it: so that others can start.
SELECT pg_advisory_xact_lock(1163088690, hashtext($1)), set_config('idle_in_transaction_session_timeout', '10s', true)
