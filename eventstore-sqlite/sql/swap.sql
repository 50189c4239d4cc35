-- Two tables change names.
ALTER TABLE {table} RENAME TO {aside};
ALTER TABLE {beside} RENAME TO {table};
ALTER TABLE {aside} RENAME TO {beside};
