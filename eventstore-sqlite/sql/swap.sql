-- Two tables exchange their names.
ALTER TABLE {table} RENAME TO {aside};
ALTER TABLE {shadow} RENAME TO {table};
ALTER TABLE {aside} RENAME TO {shadow};
