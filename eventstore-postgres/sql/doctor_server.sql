-- The settings of the server and of this session.
SELECT current_setting('server_version')                AS version,
       current_setting('server_version_num')::int       AS version_number,
       current_setting('server_encoding')               AS encoding,
       current_setting('fsync')                         AS fsync,
       current_setting('full_page_writes')              AS full_page_writes,
       current_setting('synchronous_commit')            AS synchronous_commit,
       current_setting('synchronous_standby_names')     AS synchronous_standbys,
       current_setting('default_transaction_isolation') AS isolation,
       current_setting('default_transaction_read_only') AS read_only,
       pg_is_in_recovery()                              AS replica,
       current_setting('autovacuum') = 'on' AND current_setting('track_counts') = 'on' AS autovacuum,
       (SELECT setting::bigint FROM pg_catalog.pg_settings
         WHERE name = 'idle_in_transaction_session_timeout')                            AS idle_timeout_ms,
       (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'lock_timeout') AS lock_timeout_ms,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true)::int, 0)            AS connections,
       (SELECT nullif(rolconnlimit, -1) FROM pg_catalog.pg_roles WHERE rolname = session_user)          AS role_connections,
       (SELECT nullif(datconnlimit, -1) FROM pg_catalog.pg_database WHERE datname = current_database()) AS database_connections,
       (SELECT sum(numbackends)::bigint FROM pg_catalog.pg_stat_database)               AS connected,
       current_user::text                               AS role,
       (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)          AS superuser,
       clock_timestamp()                                AS now
