//! Event sourcing and CQRS for Rust. The README of the repository follows; the guides are in [`guide`].
//!
//! [aggregates]: guide::aggregates
//! [architecture]: https://github.com/eventstore-rs/eventstore/blob/main/docs/architecture.md
//! [backup]: guide::backup
//! [changelog]: https://github.com/eventstore-rs/eventstore/blob/main/CHANGELOG.md
//! [contributing]: https://github.com/eventstore-rs/eventstore/blob/main/CONTRIBUTING.md
//! [errors]: guide::errors
//! [eventstore-core-src-conformance-mod]: https://github.com/eventstore-rs/eventstore/blob/main/eventstore-core/src/conformance/mod.rs
//! [examples-git-history-src-main]: https://github.com/eventstore-rs/eventstore/blob/main/examples/git_history/src/main.rs
//! [examples-quickstart]: https://github.com/eventstore-rs/eventstore/blob/main/examples/quickstart.rs
//! [examples-rolling-deploy-main]: https://github.com/eventstore-rs/eventstore/blob/main/examples/rolling_deploy/main.rs
//! [examples-shop-readme]: https://github.com/eventstore-rs/eventstore/blob/main/examples/shop/README.md
//! [examples-two-services]: https://github.com/eventstore-rs/eventstore/blob/main/examples/two_services.rs
//! [guarantees]: guide::guarantees
//! [http]: guide::http
//! [license-apache]: https://github.com/eventstore-rs/eventstore/blob/main/LICENSE-APACHE
//! [license-mit]: https://github.com/eventstore-rs/eventstore/blob/main/LICENSE-MIT
//! [messages]: guide::messages
//! [operating-projections]: guide::operating_projections
//! [operations]: guide::operations
//! [performance]: guide::performance
//! [postgres]: https://github.com/eventstore-rs/eventstore/blob/main/docs/postgres.md
//! [processes]: guide::processes
//! [proof]: https://github.com/eventstore-rs/eventstore/blob/main/docs/proof.md
//! [read-models]: guide::read_models
//! [recipes]: guide::recipes
//! [snapshots]: guide::snapshots
//! [store]: guide::store
//! [time]: guide::time
//! [timers]: guide::timers
//!
#![cfg_attr(all(doc, not(doctest)), doc = include_str!("../README.md"))]

pub mod guide;

/// What a store of one's own implements, and what it is asked: the [guide](guide::store) says where to begin.
pub mod contract {
    pub use eventstore_core::{
        Append, Blame, Changes, Checkpoint, Comparison, Condition, EventStore, Events, Filter, Item, NewEvent, NewTags,
        Page, Read, Rows, SLOTS, Select, Shard, SortKey, Step, StoredSnapshot, StreamHead, Table, Tables, Transaction,
        TypeIndex, Write, Written, slot,
    };
}

#[doc(hidden)]
pub use contract::*;
pub use eventstore_core::{
    Aggregate, AppendEvents, AppendTo, Appended, Boundary, BoxError, Column, CommandError, Conflict, Cursor,
    DeadLetter, Decide, Decider, Decision, Event, EventError, Every, Evolve, Execute, Expected, Get, History, Id,
    Identity, ImportEvent, Imported, Invalid, Keys, Kind, List, Load, Loaded, MemoryStore, Message, Metadata, Moment,
    Order, ParkedKeys, Position, Prefix, Project, Query, Raw, ReadEvents, ReadModel, ReadModels, Recorded, Refusal,
    Replay, Retag, Retagged, Row, RowFold, RowPage, Snapshot, SnapshotCounts, SnapshotDifference, SnapshotPolicy,
    Store, StoreError, StreamId, Tag, Tagged, Target, Timestamp, TimestampError, Token, Tx, TxConnection, Unavailable,
    Upcast, VerifiedSnapshots, Version, doctor, ensure, event_id, every, limits, testing,
};
pub use eventstore_core::{
    Command, Commands, End, EventOf, Instances, Plan, PlanStep, React, Reacting, Reactor, Saga, SagaStatus, StartFrom,
    Stepping, Steps, ask, cancel, derived_id, process, publish, send, step,
};
#[cfg(feature = "macros")]
pub use eventstore_derive::{Aggregate, Command, Event, ReadModel, Saga};
pub use eventstore_engine::{
    DeadLetters, FailedEvent, OriginalEvent, Processors, Progress, Rebuild, Runner, Running, State, Status,
    Subscription, TryRun,
};
#[cfg(feature = "messaging")]
pub use eventstore_messaging::{
    Bus, BusError, Envelope, Inbox, InboxOffset, Inboxes, LogBus, Outcome, Publish, ReadInboxes, RejectedMessage,
    Relay, RunMessaging, Start,
};
#[cfg(feature = "postgres")]
pub use eventstore_postgres::{Durability, Migration, Migrations, PgOptions, PgStore};
pub use eventstore_projections::{Comparison, Difference, Inline, Projection, ReadModelVersions, RunReadModels};
pub use eventstore_sagas::{
    AnsweredCommand, AnsweredEvent, CommandStatus, ExecutedBy, Instance, RunProcesses, RunScheduled, SagaInstances,
    Sagas, ScheduleCommands, Scheduled, ScheduledCommand, ScheduledCommands, ScheduledStatus, Scheduling, Unscheduled,
    Unscheduling,
};
#[cfg(feature = "cron")]
pub use eventstore_sagas::{Missed, RunSchedules, Schedule, Tick};
#[cfg(feature = "sqlite")]
pub use eventstore_sqlite::SqliteStore;
pub use sqlx;
pub use uuid::Uuid;

#[doc(hidden)]
pub use eventstore_core::__private;

/// What [`Processors`] was called in release 0.1.
#[deprecated(since = "0.2.0", note = "it operates subscriptions and other processors, too: it is called `Processors`")]
pub type Projections = Processors;

#[cfg(doctest)]
#[doc = include_str!("../docs/aggregates.md")]
mod aggregates {}

#[cfg(all(doctest, feature = "messaging"))]
#[doc = include_str!("../docs/messages.md")]
mod messages {}

#[cfg(all(doctest, feature = "postgres"))]
#[doc = include_str!("../docs/read-models.md")]
mod read_models {}

/// What a domain module needs: `use eventstore::prelude::*;`.
///
/// The traits with their derives, the few types one meets every day, and what `Account::given([…])`,
/// `Balance::after(…)` and `MoneyTransfer::when(…)` need in tests.
pub mod prelude {
    pub use crate::{
        Aggregate, CommandError, Decide, Decision, Event, Evolve, Id, Inline, Project, Projection, ReadModel,
        ReadModelVersions, Recorded, Row, RunReadModels, Runner, Store, Subscription, ensure, every,
        testing::{After, Given},
    };
    pub use crate::{
        Command, Commands, End, Plan, React, Reactor, RunProcesses, RunScheduled, Saga, SagaInstances,
        ScheduleCommands, Steps, ask, cancel, publish, send, step,
        testing::{GivenSteps, When},
    };
    #[cfg(feature = "messaging")]
    pub use crate::{Message, Publish, RunMessaging};
    #[cfg(feature = "cron")]
    pub use crate::{RunSchedules, Schedule};
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

/// Opens the bus a URL names: a log of its own, or a broker.
///
/// | URL | bus | feature |
/// |---|---|---|
/// | `memory:` | forgotten when the program ends, and a new one with each call: clone it | |
/// | `sqlite://bus.db` | the file, made if it is not there; any number of processes of one machine use it | `sqlite` |
/// | `postgres://user:password@host/database` | the schema `bus` in it, made if it is not there | `postgres`; over TLS also `tls` |
/// | `nats://host:4222` | NATS JetStream | `nats` |
/// | `amqp://user:password@host:5672` | RabbitMQ | `rabbitmq` |
///
/// Options of a broker are in its own crate: `eventstore_nats::NatsBus::options()`.
///
/// ```
/// # async fn example() -> Result<(), eventstore::BusError> {
/// let bus = eventstore::connect_bus("sqlite://bus.db").await?;
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "messaging")]
pub async fn connect_bus(url: &str) -> Result<Bus, BusError> {
    let store = match &*url.split(':').next().unwrap_or_default().to_ascii_lowercase() {
        #[cfg(feature = "nats")]
        "nats" => return Ok(Bus::new(eventstore_nats::NatsBus::connect(url).await?)),
        #[cfg(not(feature = "nats"))]
        "nats" => Err(without("nats")),
        #[cfg(feature = "rabbitmq")]
        "amqp" => return Ok(Bus::new(eventstore_rabbitmq::RabbitMqBus::connect(url).await?)),
        #[cfg(not(feature = "rabbitmq"))]
        "amqp" => Err(without("rabbitmq")),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => PgStore::options().schema("bus").connect(url).await.map(Store::from),
        _ => connect(url).await,
    };
    match store {
        Ok(store) => Ok(LogBus::new(&store).into()),
        Err(StoreError::Invalid(why)) => Err(BusError::Unsupported(why.to_string())),
        Err(StoreError::Denied(why)) => Err(BusError::Denied(why)),
        Err(error) => Err(BusError::unavailable(error)),
    }
}

#[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "nats", feature = "rabbitmq")))]
fn without(feature: &str) -> StoreError {
    Invalid::Url(format!("this program was built without the feature `{feature}` of eventstore")).into()
}
