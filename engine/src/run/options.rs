//! The options of a processor, as the runner sets them.

use eventstore_core::StartFrom;

/// How a processor is run, as the runner says.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many events are processed together; none: 1,000, or 10,000 while a shard catches up.
    pub batch: Option<usize>,
    /// How many shards a processor has when it runs for the first time.
    pub shards: u16,
    /// How many keys of a shard may be parked before the processor stops.
    pub(crate) max_parked: usize,
    /// Whether events that cannot be read are parked; else they stop the processor.
    pub(crate) park_unreadable: bool,
    /// Whether parked keys are tried again when a program starts.
    pub(crate) retry_at_start: bool,
    /// Whether an operator sends readers of plain SQL to a new version; else the node does, once the version is built.
    pub(crate) by_hand: bool,
    /// Where a processor that runs for the first time begins, if the runner says so.
    pub start: Option<StartFrom>,
}

impl Default for Options {
    fn default() -> Self {
        let (batch, start, shards, max_parked) = (None, None, 1, 100);
        Self { batch, shards, max_parked, park_unreadable: false, retry_at_start: false, by_hand: false, start }
    }
}
