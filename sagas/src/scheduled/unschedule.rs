//! Cancels a scheduled command, or says that it was executed.
//!
//! A command that no node has claimed is cancelled in its row. One that a node has claimed may be executed at any
//! moment, by a node that was frozen too: an event is recorded under the command's id in its place. Of the command and
//! that event the log has one.

use eventstore_core::{Position, StoreError, Timestamp};
use futures::future::BoxFuture;

use super::{
    change::Place,
    names::{check_id, check_not_cron},
    outcome::{Outcome, outcome_of},
    table::{Row, ScheduledStatus},
};

/// The result of [`unschedule`](crate::ScheduleCommands::unschedule).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unscheduled {
    /// The command is never executed. The id may be used again.
    Cancelled,
    /// The command was executed.
    Fired {
        /// The instant of the schedule.
        at: Timestamp,
        /// The position of its last event; `None` if a rule has refused it or there was nothing to do.
        position: Option<Position>,
    },
    /// Nothing is scheduled under the id, or it was executed more than seven days ago.
    Unknown,
}

/// A schedule about to be cancelled: `.await` it. Fails with [`StoreError::Invalid`] if the id breaks the rules for
/// names.
#[must_use = "nothing is cancelled until it is awaited"]
pub struct Unscheduling<'a> {
    place: Place<'a>,
    id: String,
}

/// What one look at the row has led to.
enum Step {
    Done(Unscheduled),
    /// A node may execute the command.
    Claimed(Box<Row>),
}

impl<'a> Unscheduling<'a> {
    pub(super) fn new(place: Place<'a>, id: &str) -> Self {
        Self { place, id: id.into() }
    }

    async fn run(self) -> Result<Unscheduled, StoreError> {
        check_id(&self.id)?;
        check_not_cron(&self.id)?;
        let now = self.place.store().as_ref().time().await?;
        let step = self.place.change(&self.id, |there| Ok(first(there, now))).await;
        match step {
            Ok(Step::Done(done)) => Ok(done),
            Ok(Step::Claimed(row)) => self.claimed(*row, now).await,
            Err(StoreError::NotBuilt { .. }) => Ok(Unscheduled::Unknown),
            Err(error) => Err(error),
        }
    }

    /// Records that the command is cancelled, unless its events are recorded.
    async fn claimed(&self, row: Row, now: Timestamp) -> Result<Unscheduled, StoreError> {
        let (store, command) = (self.place.store(), row.command_id);
        if !Outcome::Cancelled.record(store, &self.id, command).await? {
            match outcome_of(store, &self.id, command).await? {
                Some(Outcome::Cancelled) => {}
                Some(Outcome::Executed(position)) => {
                    return Ok(Unscheduled::Fired { at: row.at(), position: Some(position) });
                }
                Some(Outcome::Refused(_) | Outcome::Nothing) | None => {
                    return Ok(Unscheduled::Fired { at: row.at(), position: None });
                }
            }
        }
        let end = |there: Option<Row>| {
            let there = there.filter(|there| there.command_id == command && !there.status.is_over());
            let ended = there.map(|mut there| {
                there.end(ScheduledStatus::Cancelled, now);
                there
            });
            Ok((ended, ()))
        };
        self.place.change(&self.id, end).await?;
        Ok(Unscheduled::Cancelled)
    }
}

/// Cancels a schedule whose command no node has claimed.
fn first(there: Option<Row>, now: Timestamp) -> (Option<Row>, Step) {
    let Some(mut row) = there else { return (None, Step::Done(Unscheduled::Unknown)) };
    match row.status {
        ScheduledStatus::Cancelled => (None, Step::Done(Unscheduled::Cancelled)),
        status if status.is_over() => {
            let (at, position) = (row.at(), row.position.map(Position));
            (None, Step::Done(Unscheduled::Fired { at, position }))
        }
        _ if row.claimed => (None, Step::Claimed(Box::new(row))),
        _ => {
            row.end(ScheduledStatus::Cancelled, now);
            (Some(row), Step::Done(Unscheduled::Cancelled))
        }
    }
}

impl<'a> IntoFuture for Unscheduling<'a> {
    type Output = Result<Unscheduled, StoreError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
