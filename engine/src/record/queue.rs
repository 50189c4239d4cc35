//! The queues in which dead letters wait: of a key, or of a stream.

use eventstore_core::{DeadLetter, Raw, Recorded, Shard, Timestamp};

/// A queue in which events wait, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    /// The events of a key.
    Key(String),
    /// All events of a stream, because the keys of the first one are unknown.
    Stream(String),
}

impl Queue {
    pub fn of(letter: &DeadLetter) -> Self {
        match letter.whole_stream {
            true => Self::Stream(letter.key.clone()),
            false => Self::Key(letter.key.clone()),
        }
    }

    /// Returns the name of the queue: the key, or the stream.
    pub fn key(&self) -> &str {
        let (Self::Key(key) | Self::Stream(key)) = self;
        key
    }

    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    pub fn letter(&self, shard: &Shard, event: &Recorded<Raw>, error: &str, now: Timestamp) -> DeadLetter {
        DeadLetter::new(shard, self.key(), event, error, now, self.is_stream())
    }
}
