-- Whether everything that can be seen is on disk, and need not be anywhere else.
SELECT current_setting('synchronous_standby_names') = '' AND pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()
