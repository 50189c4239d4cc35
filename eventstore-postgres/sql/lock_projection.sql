-- One at a time makes, splits and joins the shards of a projection, also of one that has none yet: its row is locked, and
-- never changed. Of a process that is frozen in the middle, the server ends it: so that others can go on.
WITH locked AS (
    INSERT INTO {schema}.projection_locks (projection) VALUES ($1)
    ON CONFLICT (projection) DO UPDATE SET projection = excluded.projection WHERE false)
SELECT set_config('idle_in_transaction_session_timeout', '10s', true)
