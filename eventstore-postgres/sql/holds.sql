-- Whether this transaction still has the append lock: a rollback to a savepoint releases a lock that was taken after
-- it.
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks AS l
                WHERE l.locktype = 'relation' AND l.pid = pg_backend_pid() AND l.granted
                  AND l.mode = 'ShareUpdateExclusiveLock' AND l.relation = '{schema}.append_lock'::regclass)
