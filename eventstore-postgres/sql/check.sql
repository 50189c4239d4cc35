-- Whether this is still the transaction that was marked, and the last position as this transaction sees it: an append
-- may have been rolled back to a savepoint. Saves the time-outs that the caller may have set meanwhile.
SELECT coalesce(current_setting('eventstore.transaction', true), '') = 'open',
       (SELECT coalesce(max(position), 0) FROM {schema}.events),
       set_config('eventstore.lock_timeout', current_setting('lock_timeout'), true),
       set_config('eventstore.idle_timeout', current_setting('idle_in_transaction_session_timeout'), true)
