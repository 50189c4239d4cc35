//! The log of [eventstore](https://docs.rs/eventstore), its read models and checkpoints, in one SQLite file.
//!
//! All writes of a process go through one connection, in the order in which they come; reads have connections of
//! their own and wait for no writer. An acknowledged append is on the disk (`synchronous=FULL`). Several processes may
//! share the file.
//!
//! ```
//! # async fn example() -> Result<(), eventstore_core::StoreError> {
//! use eventstore_core::Store;
//! use eventstore_sqlite::SqliteStore;
//!
//! let store = Store::from(SqliteStore::open("bank.db").await?);
//! # Ok(())
//! # }
//! ```

mod append;
mod doctor;
mod error;
mod file;
mod migrate;
mod names;
mod read;
mod retag;
mod shared;
mod snapshots;
mod store;
mod tables;
mod transaction;

pub use store::SqliteStore;
