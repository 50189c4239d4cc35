-- Tells those who follow the log how far it goes; in a transaction of its own, because a notification takes a lock of the
-- whole cluster when it is committed. One that others keep is not worth a wait, and nothing here is worth a flush.
SET LOCAL lock_timeout = '200ms';
SET LOCAL synchronous_commit = off;
NOTIFY "{channel}", '{position}'
