-- A column that rows are looked for by; the server finds a name for it.
CREATE INDEX ON {table} ({column})
