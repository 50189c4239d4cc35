-- Marks a transaction whose connection is lent to its caller, and saves the caller's time-outs. Both settings end with
-- the transaction, so a transaction that the caller begins itself has no mark.
SELECT set_config('eventstore.transaction', 'open', true),
       set_config('eventstore.lock_timeout', current_setting('lock_timeout'), true),
       set_config('eventstore.idle_timeout', current_setting('idle_in_transaction_session_timeout'), true)
