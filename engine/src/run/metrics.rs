//! Counters, gauges and histograms, recorded once a batch. docs/operations.md lists their names.

use std::time::Duration;

use eventstore_core::{Position, Shard};
use metrics::{counter, gauge, histogram};

/// Counts the events of a batch that was committed, and its duration.
pub fn batch(shard: &Shard, events: usize, took: Duration) {
    let projection = || shard.projection.clone();
    counter!("eventstore.projection.events", "projection" => projection()).increment(events as u64);
    histogram!("eventstore.projection.batch.duration", "projection" => projection()).record(took.as_secs_f64());
}

/// Records how far all shards of a processor have come.
pub fn progress(projection: &str, position: Position, lag: u64, parked: usize) {
    let projection = || projection.to_owned();
    gauge!("eventstore.projection.position", "projection" => projection()).set(position.0 as f64);
    gauge!("eventstore.projection.lag", "projection" => projection()).set(lag as f64);
    gauge!("eventstore.projection.parked", "projection" => projection()).set(parked as f64);
}

/// Counts a failure: something was not processed, and is tried again, is parked, or has stopped the processor.
pub fn failed(projection: &str) {
    counter!("eventstore.projection.failures", "projection" => projection.to_owned()).increment(1);
}

/// Counts a batch that was refused, because the shard was another node's.
pub(crate) fn fenced(shard: &Shard) {
    counter!("eventstore.projection.fenced", "projection" => shard.projection.clone()).increment(1);
}
