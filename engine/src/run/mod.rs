//! What a node does: reads the log once for all its processors, claims shards, and has processors process pages of
//! events.

pub mod admission;
pub(crate) mod answer;
pub(crate) mod catch_up;
pub mod keyed_events;
pub(crate) mod lease;
pub(crate) mod local;
pub(crate) mod metrics;
pub(crate) mod node;
pub mod options;
pub mod page;
pub mod parked;
pub mod processor;
pub mod refold;
mod retry;
pub(crate) mod shard;
pub(crate) mod tail;
