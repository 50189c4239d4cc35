CREATE SCHEMA IF NOT EXISTS plain;
CREATE TABLE IF NOT EXISTS plain.events (
    position    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version     bigint      NOT NULL,
    recorded_at timestamptz NOT NULL,
    occurred_at timestamptz NOT NULL,
    event_id    uuid        NOT NULL,
    type_key    int         NOT NULL,
    schema      int         NOT NULL,
    stream      text COLLATE "C" NOT NULL,
    tags        text[] COLLATE "C" NOT NULL,
    metadata    bytea       NOT NULL,
    payload     bytea       NOT NULL,
    UNIQUE (stream, version),
    UNIQUE (event_id)
);
CREATE INDEX IF NOT EXISTS events_type ON plain.events (type_key, position);
CREATE INDEX IF NOT EXISTS events_tags ON plain.events USING gin (tags) WITH (fastupdate = off) WHERE tags <> '{}';
