-- Creates the table of migrations.
CREATE TABLE IF NOT EXISTS {schema}.migrations (
    version    int         NOT NULL CONSTRAINT migrations_pk PRIMARY KEY,
    checksum   uuid        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
