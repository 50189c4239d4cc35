//! Runs the sagas and reactors of [eventstore](https://docs.rs/eventstore), which answer events with commands, on any
//! number of nodes; each command is recorded once.
//!
//! What a process answers is pure, and is in `eventstore-core`. This crate reads the rows of its instances, runs the
//! commands, and writes the rows and the checkpoint in one step.

mod answers;
#[cfg(feature = "cron")]
mod cron;
mod due;
mod history;
mod instances;
mod operate;
mod processor;
mod runs;
mod scheduled;
#[doc(hidden)]
pub mod table;
mod timers;

#[cfg(feature = "cron")]
pub use cron::{Missed, RunSchedules, Schedule, Tick};
pub use history::{AnsweredCommand, AnsweredEvent, CommandStatus};
pub use instances::{Instance, SagaInstances, Sagas};
pub use runs::RunProcesses;
#[doc(hidden)]
pub use scheduled::table as scheduled_table;
pub use scheduled::{
    ExecutedBy, RunScheduled, ScheduleCommands, Scheduled, ScheduledCommand, ScheduledCommands, ScheduledStatus,
    Scheduling, Unscheduled, Unscheduling,
};
