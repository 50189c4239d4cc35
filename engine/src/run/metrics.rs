//! What is counted and measured, once a batch: docs/operations.md has the names.

use std::time::Duration;

use eventstore_core::{Position, Shard};
use metrics::{counter, gauge, histogram};

/// A batch was processed.
pub fn batch(shard: &Shard, events: usize, took: Duration) {
    let projection = || shard.projection.clone();
    counter!("eventstore.projection.events", "projection" => projection()).increment(events as u64);
    histogram!("eventstore.projection.batch.duration", "projection" => projection()).record(took.as_secs_f64());
}

/// A projection has come so far, all of its shards.
pub fn progress(projection: &str, position: Position, lag: u64, parked: usize) {
    let projection = || projection.to_owned();
    gauge!("eventstore.projection.position", "projection" => projection()).set(position.0 as f64);
    gauge!("eventstore.projection.lag", "projection" => projection()).set(lag as f64);
    gauge!("eventstore.projection.parked", "projection" => projection()).set(parked as f64);
}

/// Something was not processed, and is tried again or has stopped it.
pub fn failed(projection: &str) {
    counter!("eventstore.projection.failures", "projection" => projection.to_owned()).increment(1);
}

/// What was to be written was another node's to write.
pub fn fenced(shard: &Shard) {
    counter!("eventstore.projection.fenced", "projection" => shard.projection.clone()).increment(1);
}
