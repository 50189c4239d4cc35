-- Comes back when everything committed before is on disk: a commit that waits for its own record waits for all before.
SELECT set_config('synchronous_commit',
                  CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END,
                  true),
       pg_logical_emit_message(true, 'eventstore', '')::text
