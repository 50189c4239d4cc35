//! The clock of a store, which tests can set.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::timestamp::Timestamp;

/// The clock of a store that keeps its own time: memory and SQLite. It shows the real time, plus the time it was
/// advanced by; clones share that.
///
/// ```
/// # use std::time::Duration;
/// # use eventstore_core::{MemoryStore, testing::Clock};
/// let clock = Clock::new();
/// let store = MemoryStore::with_clock(&clock);
/// let noon = clock.now();
/// clock.advance(Duration::from_secs(3600)); // what is recorded from here on is recorded an hour later
/// ```
#[derive(Clone, Debug, Default)]
pub struct Clock {
    advanced: Arc<AtomicI64>,
    /// The instant it stands at, if it does not follow the real time.
    start: Option<Timestamp>,
}

impl Clock {
    /// Returns a clock of the real time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a clock that stands at an instant until it is advanced.
    pub fn stopped_at(start: Timestamp) -> Self {
        Self { advanced: Arc::default(), start: Some(start) }
    }

    /// Returns the current instant.
    pub fn now(&self) -> Timestamp {
        let start = self.start.unwrap_or_else(|| Timestamp::from(SystemTime::now()));
        Timestamp::from_micros(start.as_micros().saturating_add(self.advanced.load(Ordering::SeqCst)))
    }

    /// Advances the clock, and its clones.
    pub fn advance(&self, time: Duration) {
        self.advanced.fetch_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_clock_goes_only_when_it_is_advanced() {
        let noon = Timestamp::from_micros(1_700_000_000_000_000);
        let clock = Clock::stopped_at(noon);
        let same = clock.clone();
        assert_eq!(clock.now(), noon);
        clock.advance(Duration::from_secs(1));
        assert_eq!(same.now(), noon + Duration::from_secs(1), "clones go together");
    }
}
