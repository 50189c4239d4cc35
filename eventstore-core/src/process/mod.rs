//! Sagas, steps and reactors: the part that needs no runtime and no tables.
//!
//! The items for users are re-exported at the root: [`React`], [`Saga`], [`Steps`], [`Reactor`], and [`Commands`] with
//! [`send`], [`ask`], [`cancel`], [`publish`]. The rest is for an engine that runs them, and may change with it: a
//! [`Turn`] has the events and timers that one instance must answer, [`Todo`] is its next operation on the store, and
//! [`Told`] the result of that operation. The simulation of tests drives the same code.

mod answering;
mod command;
mod commands;
mod derived_id;
mod instance;
mod intervene;
mod mark;
mod outcome;
mod perform;
mod plan;
mod plan_script;
mod progress;
mod reactor;
mod rules;
mod saga;
mod script;
mod sending;
mod steps;
#[cfg(test)]
mod tests;
mod turn;
mod walk;

pub use answering::{Answering, Todo, Trigger};
pub use command::Command;
pub use commands::{Commands, ask, cancel, publish, send};
pub use derived_id::derived_id;
pub use instance::{FIRING, HEARD, StoredInstance, Timer, TimerId};
pub use intervene::{Intervention, begin_undo};
pub use mark::{Ended, Intervened, Mark, stream_of};
pub use outcome::Outcome;
pub use perform::{Failure, end};
pub use plan::{End, FailureReason, Plan, PlanStep, step};
pub(crate) use plan_script::Stimulus;
pub use progress::{Progress, SagaStatus, StepProgress, StepStatus};
#[doc(hidden)]
pub use reactor::Nothing;
pub use reactor::{Reactor, Stateless};
pub use rules::{Process, Unanswerable};
#[doc(hidden)]
pub use saga::Beginning;
pub use saga::{EventOf, Instances, React, Reacting, Saga, StartFrom};
pub use script::Script;
pub use sending::{Delivery, Sending, Told};
pub use steps::{InFlight, Stepping, Steps};
pub use turn::{Change, Heard, Item, Parked, Terms, Turn, TurnResult, Unreadable, heard_in, open, panicked};
pub use walk::{Answer, Known};
