//! A read of the log: what is asked for, and the events and the head that come back.

use std::fmt;

use futures::stream::BoxStream;

use super::query::{Item, Query};
use crate::{
    error::StoreError,
    event::{Raw, Recorded},
    invalid::Invalid,
    stream::{Position, Version},
};

/// What to read: matching events after one place and up to another, in either direction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// Which events.
    pub query: Query,
    /// Only those after this position.
    pub after: Position,
    /// Only those after this version; for a query of one stream.
    pub after_version: Version,
    /// Only those up to this position.
    pub until: Option<Position>,
    /// Only those up to this version; for a query of one stream.
    pub until_version: Option<Version>,
    /// The newest first.
    pub backwards: bool,
    /// At most so many, the first ones in the direction of the read.
    pub limit: Option<usize>,
    /// The caller folds a state and needs only stream, version, position, name, schema and body. For a query of one
    /// whole stream a store may leave the other fields blank ([`Recorded::bare`]), and may report as `head` any
    /// position up to which the stream has no further event, which is faster.
    pub bare: bool,
}

impl Read {
    /// Reads the event at a position.
    pub fn at(position: Position) -> Self {
        let after = Position(position.0.saturating_sub(1));
        Self { query: Query::all(), after, until: Some(position), limit: Some(1), ..Self::default() }
    }

    /// Refuses what no store can answer, with [`Invalid`]. Every store calls it first.
    pub fn check(&self) -> Result<(), Invalid> {
        if (self.after_version > Version(0) || self.until_version.is_some()) && self.query.stream().is_none() {
            return Err(Invalid::Request("only one stream can be read after or up to a version".into()));
        }
        self.query.items.iter().try_for_each(Item::check)
    }
}

/// The part of the log that was recorded by an instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// The last position recorded at or before the instant.
    pub position: Position,
    /// Whether no event recorded by the instant can follow. It is `false` if the instant is not past, and where a
    /// reader cannot wait for an open append: on a replica, and in a read-only file.
    pub settled: bool,
}

/// A page of events, and the end of the log when it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The last position.
    pub head: Position,
    /// The events, in the order asked for.
    pub events: Vec<Recorded<Raw>>,
    /// As [`Events::asked`].
    pub asked: Option<Query>,
}

/// The events of a read, as a stream.
pub struct Events {
    /// The read returns every matching event up to this position, and none after it: the end of the log when the read
    /// began, or `until` if that is earlier.
    pub head: Position,
    /// The events, read page by page: memory stays bounded, and no snapshot of the database is held.
    pub events: BoxStream<'static, Result<Recorded<Raw>, StoreError>>,
    /// The query with the names it asked for by [`Item::except`]; none if no item has an `except`.
    pub asked: Option<Query>,
}

impl Events {
    /// Returns the same events, with the query as it was [resolved](crate::TypeIndex::resolve).
    pub fn asking(self, asked: Option<Query>) -> Self {
        Self { asked, ..self }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("head", &self.head).finish_non_exhaustive()
    }
}
