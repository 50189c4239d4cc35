//! Where events wait that could not be processed: for a key, or for a stream.

use eventstore_core::{DeadLetter, Raw, Recorded, Shard, Timestamp};

/// Where events wait, one behind the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    /// Those of a key.
    Key(String),
    /// All of a stream, since the keys of the first one are unknown.
    Stream(String),
}

impl Queue {
    pub fn of(letter: &DeadLetter) -> Self {
        match letter.whole_stream {
            true => Self::Stream(letter.key.clone()),
            false => Self::Key(letter.key.clone()),
        }
    }

    /// What people call it.
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
