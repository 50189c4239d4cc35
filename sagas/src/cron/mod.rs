//! Cron schedules: what is done at the instants of an expression.

mod plan;
mod processor;
mod runs;
mod schedule;
mod step;

pub use runs::RunSchedules;
pub use schedule::{Missed, Schedule, Tick};
