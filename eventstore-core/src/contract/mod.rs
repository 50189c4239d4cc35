//! The contract of a store: what it must read, append and keep. To use one, see [`Store`](crate::Store).
//!
//! A store implements three traits: [`EventStore`] is the log, [`Tables`] the rows of read models and the checkpoints
//! of shards, [`Transaction`] both in one commit. The conformance suite says what they must do. They may still grow; a
//! new method comes with a default, or with a note in the changelog.

mod append;
mod log;
mod query;
mod read;
mod tables;
mod transaction;

pub use append::{Append, Condition, Write, Written};
pub use log::{EventStore, NewTags, StoredSnapshot};
pub use query::{Item, Query, TypeIndex};
pub use read::{Events, Page, Prefix, Read};
pub use tables::{Changes, Step, Tables};
pub use transaction::Transaction;
