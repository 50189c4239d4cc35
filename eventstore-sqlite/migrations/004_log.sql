-- The identity of the log, and a guard for its tags.

-- One row. The id is made here and stays with the file, also in a copy of it; the epoch is raised when an operator accepts
-- that the end of the log was lost.
CREATE TABLE eventstore_identity (
    one   INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    id    BLOB NOT NULL,                                  -- the 16 bytes of a random UUID
    epoch INTEGER NOT NULL CHECK (epoch > 0),
    kind  TEXT NOT NULL,
    since INTEGER NOT NULL                                -- microseconds since 1970, UTC
) STRICT;

INSERT INTO eventstore_identity (one, id, epoch, kind, since)
SELECT 1, unhex(substr(dice, 1, 12) || '4' || substr(dice, 14, 3) || 'a' || substr(dice, 18)), 1, 'log',
       CAST(unixepoch('subsec') * 1000000 AS INTEGER)
  FROM (SELECT hex(randomblob(16)) AS dice);

-- The tags of an event are those it was appended with: a row is refused unless the last event lists it.
DROP TRIGGER eventstore_tags_late;

CREATE TRIGGER eventstore_tags_late BEFORE INSERT ON eventstore_tags
WHEN NEW.position IS NOT (SELECT max(position) FROM eventstore_events)
  OR NOT EXISTS (SELECT 1 FROM eventstore_events AS e, json_each(e.tags) AS own
                  WHERE e.position = NEW.position AND own.value = NEW.tag)
BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END;
