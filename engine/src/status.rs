//! How far a read model or projection has come, and what holds it up.

use std::{error::Error, sync::Arc, time::Duration};

use eventstore_core::{Checkpoint, EventStore, Position, Query, Read, Shard, StoreError, Timestamp};
use futures::TryStreamExt;
use tokio::time::Instant;

use crate::{
    failure::Failure,
    record::{ProcessorState, Row},
};

/// How far one read model or projection has come, and what holds it up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Its name: `balance@1`, `ledger`.
    pub name: String,
    /// How far all of it has come.
    pub position: Position,
    /// The end of the log, as far as this node has seen it.
    pub head: Position,
    /// Where the log ended when it began: from there on it is whole, and is read.
    pub target: Position,
    /// Whether readers of plain SQL are sent to it: `"balance@current"`.
    pub current: bool,
    /// What it is doing.
    pub state: State,
    /// What holds it up: the event it fails on, and why. It tries again, unless it is stopped.
    pub error: Option<Arc<dyn Error + Send + Sync>>,
    /// Whether it has given up: its code, not the world, must be mended.
    pub stopped: bool,
    /// How many keys wait behind an event that could not be processed: see its dead letters.
    pub parked: usize,
    /// Its shards, and who runs them.
    pub shards: Vec<(Shard, Checkpoint)>,
    /// How old the oldest event is that it has not processed; zero if there is none. As of the last look: a node looks five
    /// times a lease.
    pub lag_time: Duration,
    /// How fast this node was, when it last took something in.
    rate: Option<(f64, Instant)>,
}

/// What a projection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It has never run.
    New,
    /// It processes what was recorded before it first ran.
    Booting,
    /// It processes what is recorded.
    Active,
    /// An operator has said so.
    Paused,
    /// It has given up: see the reason.
    Failed,
    /// This node leaves it to others: it does not read all that another node reads, or it cannot run it and another node
    /// can. See the reason. It looks again at every beat, and goes on when it may.
    Aside,
    /// No node that lives has its code.
    Detached,
    /// It is there for a way back, and no node runs it: it waits for `rollback`.
    Kept,
}

impl State {
    /// The state of a processor, by what is stored of it, whether a living node has its code, and whether it has come to where
    /// the log ended when it began.
    pub(crate) fn of(row: Option<&Row>, runs: bool, whole: bool) -> Self {
        match row.map(|row| &row.state) {
            Some(ProcessorState::Paused) => Self::Paused,
            Some(ProcessorState::Failed) => Self::Failed,
            Some(ProcessorState::Kept) => Self::Kept,
            // A later program has said what this one does not know: this one does not run it.
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

    /// It does not run: there is one of this name already.
    pub(crate) fn twice(name: String) -> Self {
        let error = Failure::program("this runner has one of this name already: take one out, or rename it");
        Self { error: Some(Arc::new(error)), stopped: true, state: State::Failed, ..Self::new(name) }
    }

    /// It does not run: the runner was declared wrongly.
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

    /// How many events it is behind the end of the log.
    pub fn lag(&self) -> u64 {
        self.head.0.saturating_sub(self.position.0)
    }

    /// How many events a second this node processes, about, over the last ten seconds; 0 if it is not run by this node.
    pub fn rate(&self) -> f64 {
        self.rate.map_or(0.0, |(rate, at)| rate * faded(at))
    }

    /// This node has processed so many events.
    pub(crate) fn count_events(&mut self, events: usize) {
        self.rate = Some((self.rate() + events as f64 / RATED.as_secs_f64(), Instant::now()));
    }

    /// The event it is to process next.
    pub(crate) fn set_next(&mut self, recorded_at: Option<Timestamp>, now: Timestamp) {
        let age = recorded_at.map(|then| now.as_micros().saturating_sub(then.as_micros()));
        self.lag_time = Duration::from_micros(age.and_then(|age| u64::try_from(age).ok()).unwrap_or(0));
    }

    /// Adds what is known of its shards.
    pub(crate) fn set_shards(&mut self, shards: Vec<(Shard, Checkpoint)>) {
        self.shards = shards;
        // What a shard of this node has come to since is told by itself.
        self.position = self.shards.iter().map(|(_, at)| at.position).min().unwrap_or_default();
    }

    /// One of its shards has moved.
    pub(crate) fn shard_advanced(&mut self, shard: &Shard, to: Position) {
        for (_, at) in self.shards.iter_mut().filter(|(there, _)| there == shard) {
            at.position = to.max(at.position);
        }
        self.position = self.shards.iter().map(|(_, at)| at.position).min().unwrap_or_default();
    }
}

/// Over how long speed is taken.
const RATED: Duration = Duration::from_secs(10);

fn faded(since: Instant) -> f64 {
    (-since.elapsed().as_secs_f64() / RATED.as_secs_f64()).exp()
}

/// When the event after a position was recorded, if there is one.
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
