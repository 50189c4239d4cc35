-- Two tables exchange their names. The time-out is short, because every other session waits behind this one while it
-- waits for a long read.
SET LOCAL lock_timeout = '500ms';
ALTER TABLE {tables}.{table} RENAME TO {aside};
ALTER TABLE {tables}.{shadow} RENAME TO {table};
ALTER TABLE {tables}.{aside} RENAME TO {shadow};
