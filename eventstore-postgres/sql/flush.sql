-- Returns after everything committed before is on disk, because a commit that waits for its own record waits for all
-- earlier ones. Returns whether the event $1 is recorded: the server may have crashed meanwhile, and lost it.
SELECT (SELECT true FROM {schema}.events WHERE event_id = $1) IS NOT NULL,
       set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END,
                  true),
       pg_logical_emit_message(true, 'eventstore', '')::text
