//! Lets a runner run cron schedules.

use eventstore_engine::Runner;

use super::{processor::CronProcessor, schedule::Schedule};

/// Cron schedules, as a method of [`Runner`].
pub trait RunSchedules {
    /// Runs a cron schedule, whose processor is called `cron:interest`. Each tick is one tick, on any number of nodes,
    /// whatever crashes and wherever the clock goes. The first tick is the first one after a node runs the schedule for
    /// the first time.
    ///
    /// If the expression, the time zone or the name is none, this processor stops: [`StoreError::Stopped`], caused by
    /// [`Invalid::Schedule`]. Others run.
    ///
    /// A refusal by a rule is an answer, and the next tick comes. A command that fails is tried eight times; then the
    /// schedule is parked, and goes on with [`retry`](crate::ScheduledCommands::retry) of `cron:interest`.
    ///
    /// [`StoreError::Stopped`]: eventstore_core::StoreError::Stopped
    /// [`Invalid::Schedule`]: eventstore_core::Invalid::Schedule
    fn schedule<S: Schedule>(self, schedule: S) -> Self;
}

impl RunSchedules for Runner {
    fn schedule<S: Schedule>(self, schedule: S) -> Self {
        let store = self.store().clone();
        self.with(CronProcessor::new(schedule, store))
    }
}
