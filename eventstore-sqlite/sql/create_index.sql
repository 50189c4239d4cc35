-- A column that rows are looked for by.
CREATE INDEX IF NOT EXISTS {index} ON {table} ({column})
