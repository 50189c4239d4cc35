//! Event sourcing and CQRS.

pub use eventstore_core::{
    Aggregate, Append, AppendEvents, AppendTo, Appended, Blame, Boundary, BoxError, Changes, Checkpoint, Column,
    CommandError, Condition, Conflict, DeadLetter, Decide, Decider, Decision, Event, EventError, EventStore, Events,
    Every, Evolve, Execute, Expected, Get, History, Id, Identity, ImportEvent, Imported, Invalid, Item, Keys, Kind,
    List, Load, Loaded, MemoryStore, Metadata, Moment, NewEvent, NewTags, Order, Page, ParkedKeys, Position, Prefix,
    Project, Query, Raw, Read, ReadEvents, ReadModel, ReadModels, Recorded, Refusal, Replay, Retag, Retagged, Row,
    RowFold, Rows, SLOTS, Shard, Snapshot, SnapshotCounts, SnapshotDifference, SnapshotPolicy, Step, Store, StoreError,
    StoredSnapshot, StreamHead, StreamId, Table, Tables, Tag, Tagged, Target, Timestamp, TimestampError, Token,
    Transaction, Tx, TxConnection, TypeIndex, Unavailable, Upcast, VerifiedSnapshots, Version, Write, Written, doctor,
    ensure, event_id, every, limits, slot, testing,
};
pub use eventstore_core::{
    Command, Commands, End, EventOf, Instances, Plan, PlanStep, React, Reacting, Reactor, Saga, SagaStatus, Start,
    Stepping, Steps, ask, cancel, derived_id, process, publish, send, step,
};
#[cfg(feature = "macros")]
pub use eventstore_derive::{Aggregate, Command, Event, ReadModel, Saga};
#[cfg(feature = "postgres")]
pub use eventstore_postgres::{Durability, Migration, Migrations, PgOptions, PgStore};
pub use eventstore_projections::{
    Comparison, DeadLetters, Difference, Inline, Progress, Projection, Projections, Rebuild, Runner, Running,
    StartFrom, State, Status, Subscription, TryRun,
};
#[cfg(feature = "sqlite")]
pub use eventstore_sqlite::SqliteStore;
pub use sqlx;
pub use uuid::Uuid;

#[doc(hidden)]
pub use eventstore_core::__private;

#[cfg(doctest)]
#[doc = include_str!("../docs/aggregates.md")]
mod aggregates {}

/// What a domain module needs: `use eventstore::prelude::*;`.
///
/// The traits with their derives, the few types one meets every day, and what `Account::given([…])`,
/// `Balance::after(…)` and `MoneyTransfer::when(…)` need in tests.
pub mod prelude {
    pub use crate::{
        Aggregate, CommandError, Decide, Decision, Event, Evolve, Id, Inline, Project, Projection, ReadModel, Recorded,
        Row, Runner, Store, Subscription, ensure, every,
        testing::{After, Given},
    };
    pub use crate::{
        Command, Commands, End, Plan, React, Reactor, Saga, Steps, ask, cancel, publish, send, step,
        testing::{GivenSteps, When},
    };
}

/// Opens the store a URL names.
///
/// | URL | store | feature |
/// |---|---|---|
/// | `memory:` | forgotten when the program ends | |
/// | `sqlite://bank.db` | the file, made if it is not there | `sqlite` |
/// | `postgres://user:password@host/database` | the schema `eventstore` in it, made if it is not there | `postgres`; over TLS also `tls` |
///
/// ```
/// # async fn example() -> Result<(), eventstore::StoreError> {
/// let store = eventstore::connect("memory:").await?;
/// # Ok(())
/// # }
/// ```
pub async fn connect(url: &str) -> Result<Store, StoreError> {
    let Some((scheme, rest)) = url.split_once(':') else {
        return Err(Invalid::Url("a store is named by a URL like `sqlite://file.db`".into()).into());
    };
    // Only the scheme is ever repeated: the rest may hold a password.
    match &*scheme.to_ascii_lowercase() {
        "memory" if matches!(rest, "" | "//") => Ok(MemoryStore::new().into()),
        "memory" => {
            Err(Invalid::Url("a store in memory has no name, and is a new one each time: `memory:`".into()).into())
        }
        #[cfg(feature = "sqlite")]
        "sqlite" => Ok(SqliteStore::connect(url).await?.into()),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => Ok(PgStore::connect(url).await?.into()),
        #[cfg(not(feature = "sqlite"))]
        "sqlite" => Err(without("sqlite")),
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => Err(without("postgres")),
        scheme => {
            let known = "`postgres://user@host/database`, `sqlite://file.db` or `memory:`";
            Err(Invalid::Url(format!("unsupported URL scheme `{scheme}:`; use {known}")).into())
        }
    }
}

#[cfg(not(all(feature = "sqlite", feature = "postgres")))]
fn without(feature: &str) -> StoreError {
    Invalid::Url(format!("this program was built without the feature `{feature}` of eventstore")).into()
}
