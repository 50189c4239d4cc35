-- Creates the schema of the log.
CREATE SCHEMA IF NOT EXISTS {schema}
