-- One log at a time looks whose rows are in a schema, and says that they are its own.
SELECT pg_advisory_xact_lock(1163088692, hashtext('{tables}')), set_config('idle_in_transaction_session_timeout', '10s', true)
