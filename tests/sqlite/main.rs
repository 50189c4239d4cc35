//! Every case on SQLite, in a file of its own; and what only SQLite can do.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod backup;
#[path = "../cases/mod.rs"]
mod cases;
#[path = "../cases/damaged.rs"]
mod damaged;
mod ends;
mod file;
#[path = "../cases/forks.rs"]
mod forks;
mod ledger;
mod moved;
#[path = "../cases/names.rs"]
mod names;
mod queries;
#[path = "../cases/rolling.rs"]
mod rolling;
#[path = "../cases/sums.rs"]
mod sums;

use std::sync::Arc;

use cases::{World, account};
use eventstore::{
    EventStore, SqliteStore,
    sqlx::{Sqlite as Db, SqliteConnection as Connection},
    testing::Clock,
};
use tempfile::TempDir;

async fn fresh() -> (Arc<dyn EventStore>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("log.db")).await.unwrap();
    (Arc::new(store), folder)
}

eventstore_core::conformance!(fresh);

async fn world() -> World {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let store = SqliteStore::with_clock(folder.path().join("log.db"), &clock).await.unwrap();
    World::new(Arc::new(store), Some(clock), folder)
}

async fn sweep() -> cases::cancellation::Sweep {
    let world = world().await;
    let (other, inner) = (world.store.clone(), world.inner.clone());
    // What was handed to the thread of a connection is done there, also if nobody waits for it: who writes next does.
    let idle = move || {
        let inner = inner.clone();
        async move { inner.begin().await.unwrap().rollback().await.unwrap() }
    };
    cases::cancellation::Sweep::new(world, other, Box::new(move || Box::pin(idle())))
}

/// Where processes that a test starts keep everything.
fn store_for_processes(folder: &TempDir) -> String {
    format!("sqlite://{}", folder.path().join("log.db").display())
}
