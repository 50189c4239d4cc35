-- Gives the caller of a transaction the time-outs back that the statements of the log have set for themselves.
SELECT set_config('lock_timeout', current_setting('eventstore.lock_timeout'), true),
       set_config('idle_in_transaction_session_timeout', current_setting('eventstore.idle_timeout'), true)
