//! Every case on PostgreSQL, in a schema of its own; and what only PostgreSQL can do.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod batches;
mod buses;
mod cancellation;
#[path = "../cases/mod.rs"]
mod cases;
mod crash;
#[path = "../cases/damaged.rs"]
mod damaged;
mod doctor;
mod faults;
mod forks;
mod interleavings;
mod ledger;
mod limits;
mod migrations;
mod moves;
#[path = "../cases/names.rs"]
mod names;
mod operations;
mod pooler;
mod processes;
mod queries;
mod roles;
#[path = "../cases/rolling.rs"]
mod rolling;
mod server;
mod servers;
mod sessions;
mod sqlstates;
mod stress;
#[path = "../cases/sums.rs"]
mod sums;
mod transactions;
mod trust;
mod wakeup;

use std::sync::Arc;

use cancellation::sweep;
use cases::{World, account};
use eventstore::{
    EventStore,
    sqlx::{PgConnection as Connection, Postgres as Db},
};

async fn fresh() -> (Arc<dyn EventStore>, ()) {
    (Arc::new(server::fresh().await), ())
}

eventstore_core::conformance!(fresh);

async fn world() -> World {
    World::new(Arc::new(server::fresh().await), None, ())
}

/// Where processes that a test starts keep everything, in a schema of their own.
fn store_for_processes(_: &tempfile::TempDir) -> String {
    server::url().to_owned()
}
