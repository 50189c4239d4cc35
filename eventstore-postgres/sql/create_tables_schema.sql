-- Creates the schema of the rows of read models, if it is not that of the log.
CREATE SCHEMA IF NOT EXISTS {tables}
