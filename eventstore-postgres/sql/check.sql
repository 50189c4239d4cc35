-- Whether this is still the transaction that was marked; and where the log ends, as this transaction sees it: an append may
-- have been rolled back to a savepoint. Keeps the time-outs that the caller has set meanwhile.
SELECT coalesce(current_setting('eventstore.transaction', true), '') = 'open',
       (SELECT coalesce(max(position), 0) FROM {schema}.events),
       set_config('eventstore.lock_timeout', current_setting('lock_timeout'), true),
       set_config('eventstore.idle_timeout', current_setting('idle_in_transaction_session_timeout'), true)
