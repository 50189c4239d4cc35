-- One at a time makes tables: the row of no projection is locked, and never changed. Of a process that is frozen in the
-- middle, the server ends it: so that others can start.
WITH locked AS (
    INSERT INTO {schema}.projection_locks (projection) VALUES ('')
    ON CONFLICT (projection) DO UPDATE SET projection = excluded.projection WHERE false)
SELECT set_config('idle_in_transaction_session_timeout', '10s', true)
