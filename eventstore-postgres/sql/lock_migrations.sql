-- Lets one node at a time migrate. The schema may not exist yet, so its name is the key of the lock. The server ends a
-- session that stays idle in this transaction for 10 s, so that a frozen process does not keep others from starting.
SELECT pg_advisory_xact_lock(1163088690, hashtext($1)), set_config('idle_in_transaction_session_timeout', '10s', true)
