//! The types and rules of [eventstore](https://docs.rs/eventstore), on which its other crates are built.
//!
//! Users depend on the facade, `eventstore`. This crate is for authors of a store: implement [`EventStore`], [`Tables`]
//! and [`Transaction`], and run the suite in `conformance` (a feature of that name).

mod aggregate;
mod append;
mod boundary;
mod cause;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod contract;
mod derive;
pub mod doctor;
mod encode;
#[doc(hidden)]
pub mod engine;
mod error;
mod event;
mod execute;
mod identity;
mod import;
mod invalid;
mod json;
mod known;
pub mod limits;
mod load;
mod memory;
mod message;
mod metadata;
mod paging;
pub mod process;
mod read;
mod read_model;
mod reads;
mod release;
mod retag;
mod rows;
mod select;
mod snapshot;
mod store;
mod stream;
mod table;
mod target;
pub mod testing;
mod timestamp;
mod trace;
mod turns;
mod tx;
mod whole;

pub use aggregate::{Aggregate, Decide, Decider, Decision, Evolve};
pub use append::{AppendEvents, AppendTo};
pub use boundary::Boundary;
pub use cause::event_id;
pub use contract::{
    Append, Changes, Condition, EventStore, Events, Item, NewTags, Page, Prefix, Query, Read, Step, StoredSnapshot,
    Tables, Transaction, TypeIndex, Write, Written,
};
pub use engine::{
    dead_letters::DeadLetter,
    shard::{Checkpoint, SLOTS, Shard, slot},
};
pub use error::{Blame, BoxError, CommandError, Conflict, EventError, ParkedKeys, Refusal, StoreError, Unavailable};
pub use event::{Event, NewEvent, Raw, Recorded, Tag, Tagged, Upcast};
pub use execute::{Appended, Execute};
pub use identity::{Identity, Token};
pub use import::{ImportEvent, Imported};
pub use invalid::Invalid;
pub use load::{History, Load, Loaded};
pub use memory::MemoryStore;
pub use message::Message;
pub use metadata::Metadata;
pub use process::{
    Command, Commands, End, EventOf, Instances, Plan, PlanStep, React, Reacting, Reactor, Saga, SagaStatus, StartFrom,
    Stepping, Steps, ask, cancel, derived_id, publish, send, step,
};
pub use read::ReadEvents;
pub use read_model::{Keys, Project, ReadModel, Row, RowFold};
pub use retag::{Retag, Retagged};
pub use rows::{Get, List, Moment, ReadModels, Replay, RowPage};
pub use select::{Comparison, Cursor, Filter, Select, SortKey};
pub use snapshot::{Snapshot, SnapshotCounts, SnapshotDifference, SnapshotPolicy, VerifiedSnapshots};
pub use store::Store;
pub use stream::{Expected, Id, Position, StreamHead, StreamId, Version};
pub use table::{Column, Kind, Order, Rows, Table};
pub use target::{Every, Target, every};
pub use timestamp::{Timestamp, TimestampError};
pub use tx::{Tx, TxConnection};

/// The items that derives use. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use serde;
    pub use serde_json;

    pub use crate::{
        derive::{
            Blank, Codec, CommandBody, Field, Form, Kept, OwnId, SagaState, TagKey, command_codec, decode, snapshot,
            state_codec, tag_of,
        },
        json::encode,
        process::{Beginning, Nothing},
        snapshot::shape,
    };

    /// Returns the items of all parts, one part after the other, filled up to `N` with `blank`.
    pub const fn concat<T: Copy, const N: usize>(blank: T, parts: &[&[T]]) -> [T; N] {
        let mut all = [blank; N];
        let (mut part, mut n) = (0, 0);
        while part < parts.len() {
            let mut i = 0;
            while i < parts[part].len() {
                all[n] = parts[part][i];
                (n, i) = (n + 1, i + 1);
            }
            part += 1;
        }
        all
    }

    const fn same(a: &str, b: &str) -> bool {
        let (a, b) = (a.as_bytes(), b.as_bytes());
        let mut i = 0;
        while i < a.len() && i < b.len() && a[i] == b[i] {
            i += 1;
        }
        a.len() == b.len() && i == a.len()
    }

    /// Whether a string is among others.
    pub const fn contains(all: &[&str], one: &str) -> bool {
        let mut i = 0;
        while i < all.len() && !same(all[i], one) {
            i += 1;
        }
        i < all.len()
    }

    /// Whether no string occurs twice.
    pub const fn distinct(all: &[&str]) -> bool {
        let mut i = 0;
        while i < all.len() {
            let mut j = 0;
            while j < i {
                if same(all[i], all[j]) {
                    return false;
                }
                j += 1;
            }
            i += 1;
        }
        true
    }
}
