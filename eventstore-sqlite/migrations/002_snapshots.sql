-- Snapshots: states that were kept, so that a load need not begin at the first event. Nothing is lost with them.

CREATE TABLE eventstore_snapshots (
    boundary    TEXT NOT NULL,    -- whose events: of a stream, account-ann; of a tag, course:rust; of a kind, account*
    kind        TEXT NOT NULL,    -- which type the state is
    shape       INTEGER NOT NULL, -- the fingerprint of that type
    version     INTEGER NOT NULL, -- how many events the state is made of
    position    INTEGER NOT NULL, -- the place of the last of them
    recorded_at INTEGER NOT NULL,
    event_id    BLOB NOT NULL,
    checksum    INTEGER NOT NULL,
    state       BLOB NOT NULL,
    CONSTRAINT eventstore_snapshots_pk PRIMARY KEY (boundary, kind)
) STRICT;
