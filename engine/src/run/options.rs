//! How a projection is run.

use crate::run::processor::StartFrom;

/// How a projection is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many events are processed together; none: as many as is best.
    pub batch: Option<usize>,
    /// How many shards a projection has that runs for the first time.
    pub shards: u16,
    /// How many keys may be parked before all of it stops.
    pub max_parked: usize,
    /// Whether events that cannot be read are parked; else they stop it.
    pub park_unreadable: bool,
    /// Whether what waits is tried again when a program starts.
    pub retry_at_start: bool,
    /// Whether readers of plain SQL are sent to a new version by an operator, and not by itself once it is whole.
    pub by_hand: bool,
    /// Where it begins that runs for the first time, if the runner says so.
    pub start: Option<StartFrom>,
}

impl Default for Options {
    fn default() -> Self {
        let (batch, start, shards, max_parked) = (None, None, 1, 100);
        Self { batch, shards, max_parked, park_unreadable: false, retry_at_start: false, by_hand: false, start }
    }
}
