-- The log, the checkpoints, and a view for people.

CREATE TABLE eventstore_types (
    type_key INTEGER PRIMARY KEY,
    category TEXT NOT NULL,
    name     TEXT NOT NULL,
    CONSTRAINT eventstore_types_name UNIQUE (category, name)
) STRICT;

CREATE TABLE eventstore_events (
    position    INTEGER PRIMARY KEY CHECK (position > 0), -- max + 1 under the write lock: no gaps
    version     INTEGER NOT NULL CHECK (version > 0),
    recorded_at INTEGER NOT NULL,                         -- microseconds since 1970, UTC; never goes back
    occurred_at INTEGER NOT NULL,
    type_key    INTEGER NOT NULL,
    schema      INTEGER NOT NULL,
    event_id    BLOB NOT NULL,                            -- the 16 bytes of a UUID
    stream      TEXT NOT NULL,
    tags        TEXT NOT NULL,                            -- a JSON array, to be read with the event
    metadata    BLOB NOT NULL,
    payload     BLOB NOT NULL,
    CONSTRAINT eventstore_events_stream UNIQUE (stream, version),
    CONSTRAINT eventstore_events_event_id UNIQUE (event_id)
) STRICT;

-- Reads by event type and by category; the position is in every index.
CREATE INDEX eventstore_events_type ON eventstore_events (type_key);

-- Reads by tag.
CREATE TABLE eventstore_tags (
    tag      TEXT NOT NULL,
    position INTEGER NOT NULL,
    CONSTRAINT eventstore_tags_pk PRIMARY KEY (tag, position)
) STRICT, WITHOUT ROWID;

-- Nothing of the log is changed or deleted; nor replaced, which is a delete that no trigger on DELETE sees.
CREATE TRIGGER eventstore_events_update BEFORE UPDATE ON eventstore_events
BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END;

CREATE TRIGGER eventstore_events_delete BEFORE DELETE ON eventstore_events
BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END;

CREATE TRIGGER eventstore_events_replace BEFORE INSERT ON eventstore_events
WHEN EXISTS (SELECT 1 FROM eventstore_events WHERE position = NEW.position)
  OR EXISTS (SELECT 1 FROM eventstore_events WHERE event_id = NEW.event_id)
  OR EXISTS (SELECT 1 FROM eventstore_events WHERE stream = NEW.stream AND version = NEW.version)
BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END;

CREATE TRIGGER eventstore_tags_update BEFORE UPDATE ON eventstore_tags
BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END;

CREATE TRIGGER eventstore_tags_delete BEFORE DELETE ON eventstore_tags
BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END;

-- An event gets its tags when it is appended, and none later.
CREATE TRIGGER eventstore_tags_late BEFORE INSERT ON eventstore_tags
WHEN NEW.position IS NOT (SELECT max(position) FROM eventstore_events)
BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END;

CREATE TRIGGER eventstore_types_update BEFORE UPDATE ON eventstore_types
BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END;

CREATE TRIGGER eventstore_types_delete BEFORE DELETE ON eventstore_types
BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END;

CREATE TRIGGER eventstore_types_replace BEFORE INSERT ON eventstore_types
WHEN EXISTS (SELECT 1 FROM eventstore_types WHERE type_key = NEW.type_key)
  OR EXISTS (SELECT 1 FROM eventstore_types WHERE category = NEW.category AND name = NEW.name)
BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END;

-- How far each shard of a projection has come, and which node moves it. A shard has the keys of some slots of 1,024.
CREATE TABLE eventstore_checkpoints (
    projection TEXT    NOT NULL,
    from_slot  INTEGER NOT NULL,
    to_slot    INTEGER NOT NULL CHECK (from_slot < to_slot),
    position   INTEGER NOT NULL,
    event_id   BLOB,
    epoch      INTEGER NOT NULL,
    owner      BLOB,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (projection, from_slot)
) STRICT, WITHOUT ROWID;

-- The log as people want to see it. What is not JSON is NULL here.
CREATE VIEW eventstore_log AS
SELECT e.position,
       e.stream,
       e.version,
       t.name AS event,
       CASE WHEN json_valid(CAST(e.payload AS TEXT)) THEN json(CAST(e.payload AS TEXT)) END AS data,
       e.tags,
       strftime('%Y-%m-%dT%H:%M:%fZ', e.recorded_at / 1e6, 'unixepoch') AS recorded_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', e.occurred_at / 1e6, 'unixepoch') AS occurred_at,
       CASE WHEN json_valid(CAST(e.metadata AS TEXT)) THEN json(CAST(e.metadata AS TEXT)) END AS metadata,
       e.schema,
       lower(hex(e.event_id)) AS event_id
  FROM eventstore_events AS e
  JOIN eventstore_types AS t USING (type_key);
