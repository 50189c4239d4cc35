-- Lets one log at a time check and claim the rows of a schema. The time-out is that of `lock_migrations`.
SELECT pg_advisory_xact_lock(1163088692, hashtext('{tables}')), set_config('idle_in_transaction_session_timeout', '10s', true)
