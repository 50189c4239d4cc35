-- For sessions that run nothing but the few statements of the log: plans are made once, perhaps while the log is young
-- and a scan of it is cheap, so none may scan it. What the functions would set, too, costs them less where it is set.
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET jit = off;
SET search_path = pg_catalog, pg_temp;
SELECT set_config('lock_timeout', '10s', false) WHERE current_setting('lock_timeout') = '0'
