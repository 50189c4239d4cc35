-- Locks a shard until the transaction ends, and returns its checkpoint. The server ends a session that stays idle in
-- this transaction for 10 s, so that a frozen process does not stop others.
SELECT projection, from_slot, to_slot, position, event_id, epoch, owner,
       set_config('idle_in_transaction_session_timeout', '10s', true)
  FROM {schema}.lock_shard($1, $2, $3)
