//! Commands that are executed at an instant: [`ScheduleCommands`] stores and cancels them, [`RunScheduled`] executes them.

pub(crate) mod change;
mod executes;
mod firing;
mod list;
mod processor;
pub(crate) mod schedule;
#[doc(hidden)]
pub mod table;
mod unschedule;

pub use executes::{ExecutedBy, RunScheduled};
pub use list::{ScheduledCommand, ScheduledCommands};
pub use schedule::{ScheduleCommands, Scheduled, Scheduling};
pub use table::ScheduledStatus;
pub use unschedule::{Unscheduled, Unscheduling};
