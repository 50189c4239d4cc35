-- Whether this transaction still keeps all others from appending: a lock that was taken since a savepoint is let go with what
-- is rolled back to it.
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks AS l
                WHERE l.locktype = 'relation' AND l.pid = pg_backend_pid() AND l.granted
                  AND l.mode = 'ShareUpdateExclusiveLock' AND l.relation = '{schema}.append_lock'::regclass)
