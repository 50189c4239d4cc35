-- Whether the event $1 is recorded, everything that can be seen is on disk, and nothing need be anywhere else.
SELECT current_setting('synchronous_standby_names') = '' AND pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()
       AND EXISTS (SELECT FROM {schema}.events WHERE event_id = $1)
