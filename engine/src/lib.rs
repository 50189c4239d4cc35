//! The engine of [eventstore](https://docs.rs/eventstore): runs what follows the log on any number of nodes, and counts
//! each event exactly once.
//!
//! Everything that follows the log is a [`Processor`]: read models and projections in SQL (the crate
//! `eventstore-projections`), and the [`Subscription`] of this crate. They share one life cycle, one set of operator
//! methods ([`Processors`]) and one [`Status`].
//!
//! The folders, from below: `record` is what is stored of a processor; `run` is what a node does; `operate` is what an
//! operator does. On top are [`Runner`] and [`Subscription`].
//!
//! Users depend on the facade, `eventstore`. This crate is for authors of other kinds of processors. What such a crate
//! needs beyond the names below is in hidden modules, whose names may change with each release.

#[doc(hidden)]
pub mod failure;
#[doc(hidden)]
pub mod operate;
#[doc(hidden)]
pub mod record;
#[doc(hidden)]
pub mod run;
mod runner;
mod status;
mod subscription;

pub use eventstore_core::StartFrom;
pub use failure::{Failure, Fault, Halt};
pub use operate::{
    dead_letters::{DeadLetters, FailedEvent, OriginalEvent},
    processors::Processors,
    rebuild::{Progress, Rebuild},
};
pub use record::{instances::InstanceStorage, queue::Queue, reads::Reads, requests::TryRun};
pub use run::{
    keyed_events::KeyedEvents,
    page::{Decoded, DecodedPage},
    parked::Parked,
    processor::{Begins, Disposition, Fence, Held, Outputs, Part, Processor, RefoldRows, Remembered, Tick},
};
pub use runner::{Runner, Running};
pub use status::{State, Status};
pub use subscription::Subscription;
