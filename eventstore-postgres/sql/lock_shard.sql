-- The checkpoint of a shard; nobody else moves it until this transaction ends. Of a process that is frozen in the middle,
-- the server ends it: so that others can go on.
SELECT projection, from_slot, to_slot, position, event_id, epoch, owner,
       set_config('idle_in_transaction_session_timeout', '10s', true)
  FROM {schema}.lock_shard($1, $2, $3)
