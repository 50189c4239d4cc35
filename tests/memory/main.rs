//! Every case on the store in memory.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod brokers;
#[path = "../cases/mod.rs"]
mod cases;
mod metrics;
mod patience;
mod processor;
mod spans;

use std::sync::Arc;

use cases::{World, account};
use eventstore::{EventStore, MemoryStore, testing::Clock};

async fn fresh() -> (Arc<dyn EventStore>, ()) {
    (Arc::new(MemoryStore::new()), ())
}

eventstore_core::conformance!(fresh);

async fn world() -> World {
    let clock = Clock::new();
    World::new(Arc::new(MemoryStore::with_clock(&clock)), Some(clock), ())
}

async fn sweep() -> cases::cancellation::Sweep {
    let world = world().await;
    let other = world.store.clone();
    cases::cancellation::Sweep::new(world, other, Box::new(|| Box::pin(std::future::ready(()))))
}
