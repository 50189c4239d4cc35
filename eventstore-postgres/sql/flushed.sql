-- Whether the event $1 is recorded, everything visible is on disk, and no standby must confirm it.
SELECT current_setting('synchronous_standby_names') = '' AND pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()
       AND EXISTS (SELECT FROM {schema}.events WHERE event_id = $1)
