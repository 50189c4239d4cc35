//! How a projection is run.

use crate::follower::StartFrom;

/// How a projection is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// How many events are processed together; none: as many as is best.
    pub(crate) batch: Option<usize>,
    /// How many shards a projection has that runs for the first time.
    pub(crate) shards: u16,
    /// How many keys may be parked before all of it stops.
    pub(crate) max_parked: usize,
    /// Whether events that cannot be read are parked; else they stop it.
    pub(crate) park_unreadable: bool,
    /// Whether what waits is tried again when a program starts.
    pub(crate) retry_at_start: bool,
    /// Whether readers of plain SQL are sent to a new version by an operator, and not by itself once it is whole.
    pub(crate) by_hand: bool,
    /// Where it begins that runs for the first time, if the runner says so.
    pub(crate) start: Option<StartFrom>,
}
