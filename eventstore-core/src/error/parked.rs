//! The keys that wait behind an event that could not be processed.

use std::{collections::BTreeSet, fmt};

/// The largest number of keys in a list.
const LISTED: usize = 20;

/// Keys that wait behind an event that could not be processed: their rows are incomplete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedKeys {
    /// The keys, ordered byte by byte, 20 at most. If the keys of an event are unknown, its stream (`account-ann`).
    pub listed: Vec<String>,
    /// The number of keys, listed or not.
    pub count: usize,
}

impl ParkedKeys {
    /// Returns the keys of dead letters, each once.
    #[doc(hidden)]
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let keys: BTreeSet<_> = keys.into_iter().collect();
        Self { count: keys.len(), listed: keys.into_iter().take(LISTED).map(str::to_owned).collect() }
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl fmt::Display for ParkedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed: Vec<_> = self.listed.iter().map(|key| format!("`{key}`")).collect();
        f.write_str(&listed.join(", "))?;
        match self.count.saturating_sub(self.listed.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
