//! How far a processor has come, and what holds it up.

use std::{error::Error, sync::Arc, time::Duration};

use eventstore_core::{Checkpoint, EventStore, Position, Query, Read, Shard, StoreError, Timestamp};
use futures::TryStreamExt;
use tokio::time::Instant;

use crate::{
    failure::Failure,
    record::{ProcessorState, Row},
};

/// How far one processor has come, and what holds it up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Its full name: `balance@1`, `ledger`.
    pub name: String,
    /// How far all its shards have come.
    pub position: Position,
    /// The end of the log, as far as this node has seen it.
    pub head: Position,
    /// The end of the log when it began. From there on it is built, and is read.
    pub target: Position,
    /// Whether readers of plain SQL are sent to its table: `"balance@current"`.
    pub current: bool,
    /// What it is doing.
    pub state: State,
    /// What holds it up: the event it fails on, and why. The node tries it again, unless it is stopped.
    pub error: Option<Arc<dyn Error + Send + Sync>>,
    /// Whether it has given up: its code must be mended, not the database.
    pub stopped: bool,
    /// How many keys are parked: see its dead letters.
    pub parked: usize,
    /// Its shards, each with its checkpoint and the node that runs it.
    pub shards: Vec<(Shard, Checkpoint)>,
    /// Age of the oldest unprocessed event; zero if there is none. Refreshed every fifth of a lease (600 ms by
    /// default).
    pub lag_time: Duration,
    /// The rate at the last batch of this node, and when that was.
    rate: Option<(f64, Instant)>,
}

/// What a processor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It has never run.
    New,
    /// It processes events that were recorded before it first ran.
    Booting,
    /// It is built, and follows the log.
    Active,
    /// An operator has paused it.
    Paused,
    /// It has given up: see [`Status::error`].
    Failed,
    /// This node stands aside: another node reads more events, or this node cannot run the processor and another one
    /// can. See [`Status::error`]. It decides again at every beat, and goes on when it may.
    Aside,
    /// No living node has its code.
    Detached,
    /// It is kept for `rollback`, and no node runs it.
    Kept,
}

impl State {
    /// Returns the state of a processor, from its row, whether a living node has its code, and whether it is built.
    pub(crate) fn of(row: Option<&Row>, runs: bool, whole: bool) -> Self {
        match row.map(|row| &row.state) {
            Some(ProcessorState::Paused) => Self::Paused,
            Some(ProcessorState::Failed) => Self::Failed,
            Some(ProcessorState::Kept) => Self::Kept,
            // A later program has stored a state that this one does not know, so this one does not run the processor.
            Some(ProcessorState::Later(_)) => Self::Aside,
            _ if !runs => Self::Detached,
            _ if whole => Self::Active,
            _ => Self::Booting,
        }
    }
}

impl Status {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            position: Position(0),
            head: Position(0),
            target: Position(0),
            current: false,
            state: State::New,
            error: None,
            stopped: false,
            parked: 0,
            shards: vec![],
            lag_time: Duration::ZERO,
            rate: None,
        }
    }

    /// Returns the status of a second processor of a name: it does not run.
    pub(crate) fn twice(name: String) -> Self {
        let error = Failure::program("this runner has one of this name already: take one out, or rename it");
        Self { error: Some(Arc::new(error)), stopped: true, state: State::Failed, ..Self::new(name) }
    }

    /// Returns the status of a processor that does not run, because the runner was declared wrongly.
    pub(crate) fn refused(name: String, reason: Arc<dyn Error + Send + Sync>) -> Self {
        Self { error: Some(reason), stopped: true, state: State::Failed, ..Self::new(name) }
    }

    pub(crate) fn behind(&self, until: Position) -> StoreError {
        let projection = self.name.clone();
        let reason = self.error.clone().map(Into::into);
        match reason {
            Some(reason) if self.stopped => StoreError::Stopped { projection, reason },
            reason => StoreError::Behind { projection, at: self.position, until, reason },
        }
    }

    /// Returns how many events lie between its position and the end of the log, as far as this node has seen it.
    pub fn lag(&self) -> u64 {
        self.head.0.saturating_sub(self.position.0)
    }

    /// Returns how many events a second this node processes, averaged over about the last ten seconds; 0 if this node
    /// does not run it.
    pub fn rate(&self) -> f64 {
        self.rate.map_or(0.0, |(rate, at)| rate * faded(at))
    }

    /// Counts events that this node has processed.
    pub(crate) fn count_events(&mut self, events: usize) {
        self.rate = Some((self.rate() + events as f64 / RATED.as_secs_f64(), Instant::now()));
    }

    /// Sets the age of the oldest unprocessed event, by when that event was recorded.
    pub(crate) fn set_next(&mut self, recorded_at: Option<Timestamp>, now: Timestamp) {
        let age = recorded_at.map(|then| now.as_micros().saturating_sub(then.as_micros()));
        self.lag_time = Duration::from_micros(age.and_then(|age| u64::try_from(age).ok()).unwrap_or(0));
    }

    /// Sets the shards as the store has them.
    pub(crate) fn set_shards(&mut self, shards: Vec<(Shard, Checkpoint)>) {
        self.shards = shards;
        // A shard of this node that has come further since reports that itself.
        self.position = self.shards.iter().map(|(_, at)| at.position).min().unwrap_or_default();
    }

    /// Records that one of its shards has advanced.
    pub(crate) fn shard_advanced(&mut self, shard: &Shard, to: Position) {
        for (_, at) in self.shards.iter_mut().filter(|(there, _)| there == shard) {
            at.position = to.max(at.position);
        }
        self.position = self.shards.iter().map(|(_, at)| at.position).min().unwrap_or_default();
    }
}

/// Over how long the rate is averaged.
const RATED: Duration = Duration::from_secs(10);

fn faded(since: Instant) -> f64 {
    (-since.elapsed().as_secs_f64() / RATED.as_secs_f64()).exp()
}

/// Returns when the event after a position was recorded, if there is one.
pub(crate) async fn next(store: &dyn EventStore, after: Position) -> Result<Option<Timestamp>, StoreError> {
    let read = Read { query: Query::all(), after, limit: Some(1), ..Read::default() };
    Ok(store.read(read).await?.events.try_next().await?.map(|event| event.recorded_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_that_of_the_last_seconds_and_fades() {
        let mut status = Status::new("p".into());
        assert_eq!(status.rate(), 0.0);
        for _ in 0..1_000 {
            tokio::time::advance(Duration::from_millis(100)).await;
            status.count_events(50);
        }
        assert!((490.0..510.0).contains(&status.rate()), "{}", status.rate());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(status.rate() < 2.0);
    }
}
