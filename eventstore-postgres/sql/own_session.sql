-- Sets up a session that runs only the statements of the log. Plans are made once, perhaps while the log is young and a
-- scan is cheap, so they must not scan. The functions set the same; that costs them less where it is set already.
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET jit = off;
SET search_path = pg_catalog, pg_temp;
SELECT set_config('lock_timeout', '10s', false) WHERE current_setting('lock_timeout') = '0'
