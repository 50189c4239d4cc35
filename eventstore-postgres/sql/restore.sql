-- Restores the caller's time-outs after statements of the log have set their own.
SELECT set_config('lock_timeout', current_setting('eventstore.lock_timeout'), true),
       set_config('idle_in_transaction_session_timeout', current_setting('eventstore.idle_timeout'), true)
