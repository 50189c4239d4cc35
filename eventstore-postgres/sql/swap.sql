-- Two tables change names. Whoever reads for long is not waited for for long, for others would wait behind.
SET LOCAL lock_timeout = '500ms';
ALTER TABLE {tables}.{table} RENAME TO {aside};
ALTER TABLE {tables}.{shadow} RENAME TO {table};
ALTER TABLE {tables}.{aside} RENAME TO {shadow};
