//! Commands that are executed at an instant: [`ScheduleCommands`] stores and cancels them, [`RunScheduled`] executes them.

mod change;
mod executes;
mod firing;
mod list;
mod processor;
mod schedule;
#[doc(hidden)]
pub mod table;
mod unschedule;

pub use executes::{ExecutedBy, RunScheduled};
pub use list::{ScheduledCommand, ScheduledCommands};
pub use schedule::{Schedule, ScheduleCommands, Scheduled};
pub use table::ScheduledStatus;
pub use unschedule::{Unschedule, Unscheduled};
