-- The schema of the rows of read models, where it is not that of the log.
CREATE SCHEMA IF NOT EXISTS {tables}
