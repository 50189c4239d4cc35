//! What time it is; in tests, what time it shall be.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::timestamp::Timestamp;

/// The clock of a store that keeps its own time: memory and SQLite. Real, unless it is advanced; clones go together.
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
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    /// The real time.
    pub fn new() -> Self {
        Self::default()
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        let real = Timestamp::from(SystemTime::now());
        Timestamp::from_micros(real.as_micros().saturating_add(self.0.load(Ordering::SeqCst)))
    }

    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.0.fetch_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}
