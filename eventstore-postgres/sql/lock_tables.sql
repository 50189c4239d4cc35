-- Lets one session at a time create tables, by the lock of the projection '', which does not exist. The time-out is
-- that of `lock_projection`.
WITH locked AS (
    INSERT INTO {schema}.projection_locks (projection) VALUES ('')
    ON CONFLICT (projection) DO UPDATE SET projection = excluded.projection WHERE false)
SELECT set_config('idle_in_transaction_session_timeout', '10s', true)
