-- Snapshots: states that were kept, so that a load need not begin at the first event. Nothing is lost with them.

CREATE TABLE {schema}.snapshots (
    shape       bigint      NOT NULL,          -- the fingerprint of the type
    version     bigint      NOT NULL,          -- how many events the state is made of
    position    bigint      NOT NULL,          -- the place of the last of them
    recorded_at timestamptz NOT NULL,
    checksum    bigint      NOT NULL,
    event_id    uuid        NOT NULL,
    boundary    text COLLATE "C" NOT NULL,     -- whose events: of a stream, account-ann; of a tag, course:rust; of a kind, account*
    kind        text COLLATE "C" NOT NULL,     -- which type the state is
    state       bytea       NOT NULL,
    CONSTRAINT snapshots_pk PRIMARY KEY (boundary, kind)
) WITH (fillfactor = 50);
