-- Sends the head of the log to the readers of other processes. It has a transaction of its own, because NOTIFY takes a
-- lock of the whole cluster at the commit. A notification is worth neither a long wait for that lock nor a flush.
SET LOCAL lock_timeout = '200ms';
SET LOCAL synchronous_commit = off;
NOTIFY "{channel}", '{position}'
