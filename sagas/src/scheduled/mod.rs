//! Commands that are executed at an instant: [`ScheduleCommands`] stores and cancels them, [`RunScheduled`] executes them.

pub(crate) mod change;
mod executed;
mod firing;
mod list;
pub(crate) mod names;
mod outcome;
mod processor;
mod runs;
mod schedule;
#[doc(hidden)]
pub mod table;
mod unschedule;

pub use executed::ExecutedBy;
pub use list::{ScheduledCommand, ScheduledCommands};
pub use runs::RunScheduled;
pub use schedule::{ScheduleCommands, Scheduled, Scheduling};
pub use table::ScheduledStatus;
pub use unschedule::{Unscheduled, Unscheduling};
