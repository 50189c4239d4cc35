-- Marks a transaction whose connection its caller may use, and keeps the time-outs that the caller has. Both end with the
-- transaction, so one that another statement has begun has no mark.
SELECT set_config('eventstore.transaction', 'open', true),
       set_config('eventstore.lock_timeout', current_setting('lock_timeout'), true),
       set_config('eventstore.idle_timeout', current_setting('idle_in_transaction_session_timeout'), true)
