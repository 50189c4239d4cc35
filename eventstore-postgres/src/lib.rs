//! The log of [eventstore](https://docs.rs/eventstore), its read models and checkpoints, in PostgreSQL.
//!
//! Events get gapless positions in the order in which they are committed, so a reader never skips one;
//! `docs/postgres.md` has the proof. Everything is in a schema of its own; the default is `eventstore`.
//!
//! ```no_run
//! # async fn example() -> Result<(), eventstore_core::StoreError> {
//! use eventstore_core::Store;
//! use eventstore_postgres::PgStore;
//!
//! let store = Store::from(PgStore::connect("postgres://bank@localhost/bank").await?);
//! # Ok(())
//! # }
//! ```

mod append;
mod batch;
mod bind;
mod claim;
mod connect;
mod connections;
mod db;
mod doctor;
mod error;
mod fast_path;
mod functions;
mod head;
mod listen;
mod migrate;
mod notify;
mod pooler;
mod read;
mod session;
mod shared;
mod snapshots;
mod sql;
mod sqlstate;
mod store;
mod tables;
mod transaction;
mod types;
mod writer;

pub use migrate::{Migration, Migrations};
pub use store::{PgOptions, PgStore};
pub use writer::Durability;
