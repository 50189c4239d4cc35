//! The error of an append whose stream or condition has changed.

use std::{fmt, sync::Arc};

use crate::stream::{Expected, StreamId, Version};

/// A stream is not at the version an append expects, or an event matches the append condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream {stream} is at version {actual}; expected: {expected}{}", Names(self))]
#[non_exhaustive]
pub struct Conflict {
    /// The stream that is not as expected.
    pub stream: StreamId,
    /// What the append expects of the stream. After an append condition, the version before the matching event.
    pub expected: Expected,
    /// The version the stream is at; after an append condition, the version of the matching event.
    pub actual: Version,
    /// The stored names of the events of `stream` after the expected version up to `actual`, in order; of more than 20
    /// the last 20. Empty if the append expects no version or a later one, or if the names could not be read.
    pub between: Vec<Arc<str>>,
}

impl Conflict {
    /// The largest number of names in [`between`](Self::between).
    pub(crate) const NAMES: usize = 20;

    /// Returns the conflict of a stream that is not at the expected version. A [`Store`](crate::Store) adds the names
    /// in between.
    pub fn new(stream: StreamId, expected: Expected, actual: Version) -> Self {
        Self { stream, expected, actual, between: vec![] }
    }

    /// Returns the conflict of an event that matches an append condition.
    pub fn in_the_way(stream: StreamId, version: Version) -> Self {
        Self::new(stream, Expected::Version(Version(version.0.saturating_sub(1))), version)
    }

    /// Returns the number of events in between; 0 if the append expects no version.
    pub(crate) fn events(&self) -> u64 {
        match self.expected {
            Expected::Version(expected) => self.actual.0.saturating_sub(expected.0),
            Expected::Any | Expected::Exists => 0,
        }
    }
}

/// The names of the events in between, as the end of the message.
struct Names<'a>(&'a Conflict);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(conflict) = self;
        let more = conflict.events() > conflict.between.len() as u64;
        for (name, n) in conflict.between.iter().zip(0..) {
            f.write_str(match n {
                0 if more => "; in between: …, ",
                0 => "; in between: ",
                _ => ", ",
            })?;
            write!(f, "`{name}`")?;
        }
        Ok(())
    }
}
