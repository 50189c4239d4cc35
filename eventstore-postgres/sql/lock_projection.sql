-- Locks a projection, also one without shards, while its shards are created, split or joined: its row in
-- projection_locks is locked and never changed. The server ends a session that stays idle in this transaction for 10 s,
-- so that a frozen process does not stop others.
WITH locked AS (
    INSERT INTO {schema}.projection_locks (projection) VALUES ($1)
    ON CONFLICT (projection) DO UPDATE SET projection = excluded.projection WHERE false)
SELECT set_config('idle_in_transaction_session_timeout', '10s', true)
