//! Follows the log: reads what is new, has it taken in, and moves the checkpoint in the same transaction.

use std::{error::Error, future::pending, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use eventstore_core::{
    Checkpoint, EventStore, Events, Position, Query, Raw, Read, Recorded, Shard, Store, Transaction,
};
use futures::{FutureExt, TryStreamExt, future::select, pin_mut};
use tokio::{sync::watch, time::sleep};

use crate::{failed::Failed, status::Status};

/// How many events are taken in together.
const BATCH: usize = 1_000;
/// How long to wait after a first error; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Whatever takes events in.
#[async_trait]
pub(crate) trait Follower: Send + Sync {
    /// The name of the checkpoint.
    fn name(&self) -> String;
    /// What it wants to hear of.
    fn query(&self) -> Query;
    /// Comes before the first batch.
    async fn prepare(&self, store: &dyn EventStore) -> Result<(), Failed>;
    /// Takes in a batch; the caller moves the checkpoint and commits.
    async fn take(&self, transaction: &mut dyn Transaction, batch: &[Recorded<Raw>]) -> Result<(), Failed>;
}

/// Follows the log until it is asked to stop, or cannot go on.
pub(crate) async fn follow(
    store: Store,
    follower: Arc<dyn Follower>,
    report: watch::Sender<Status>,
    stop: watch::Receiver<bool>,
) {
    let name = follower.name();
    let mut progress = Progress { position: None };
    let mut pause = FIRST_PAUSE;
    while !*stop.borrow() {
        let step = AssertUnwindSafe(progress.step(store.as_ref(), &*follower)).catch_unwind().await;
        match step.unwrap_or_else(|panic| Err(Failed::panicked(&*panic))) {
            Ok(step) => {
                pause = FIRST_PAUSE;
                let (Step::Moved(position) | Step::AtTheEnd(position)) = step;
                store.runs(&name, None, false);
                report.send_modify(|status| (status.position, status.error) = (position, None));
                if let Step::AtTheEnd(position) = step {
                    unless(&stop, store.as_ref().appended(position)).await;
                }
            }
            Err(failed) => {
                // Only what stands on top: further down may be what is in the events, and that is nobody's business here.
                tracing::warn!(
                    projection = name,
                    event = failed.event.as_ref().map(display),
                    error = %failed.reason,
                    stopped = failed.stops,
                    "projection failed"
                );
                let stopped = failed.stops;
                let failed: Arc<dyn Error + Send + Sync> = Arc::new(failed);
                store.runs(&name, Some(failed.clone()), stopped);
                report.send_modify(|status| (status.error, status.stopped) = (Some(failed), stopped));
                if stopped {
                    return;
                }
                progress = Progress { position: None };
                unless(&stop, sleep(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    store.runs_no_more(&name);
}

/// Waits for something, but not when asked to stop.
async fn unless(stop: &watch::Receiver<bool>, something: impl Future<Output = ()>) {
    let mut stop = stop.clone();
    let stopped = async move {
        // Nobody can ask any more: then it runs on.
        if stop.wait_for(|stop| *stop).await.is_err() {
            pending::<()>().await;
        }
    };
    pin_mut!(stopped, something);
    select(stopped, something).await;
}

/// How far one follower has come, as far as this process knows.
struct Progress {
    /// Not known: it must be prepared first, at the start and after an error.
    position: Option<Position>,
}

enum Step {
    Moved(Position),
    AtTheEnd(Position),
}

impl Progress {
    async fn step(&mut self, store: &dyn EventStore, follower: &dyn Follower) -> Result<Step, Failed> {
        let name = follower.name();
        let from = match self.position {
            Some(position) => position,
            None => {
                follower.prepare(store).await?;
                let mut transaction = store.begin().await?;
                if transaction.lock_projection(&name).await?.is_empty() {
                    let new = vec![(Shard::whole(&name), Checkpoint::default())];
                    transaction.put_shards(&name, new).await?;
                }
                transaction.commit().await?;
                store.checkpoint(&name).await?
            }
        };
        let read = Read { query: follower.query(), after: from, limit: Some(BATCH), ..Read::default() };
        let Events { head, events } = store.read(read).await?;
        let batch: Vec<_> = events.try_collect().await?;
        let to = match batch.last() {
            Some(last) if batch.len() == BATCH => last.position,
            _ => head,
        };
        if to <= from {
            self.position = Some(from);
            return Ok(Step::AtTheEnd(from));
        }
        let mut transaction = store.begin().await?;
        let shard = Shard::whole(&name);
        let at = transaction.lock(&shard).await?.unwrap_or_default().position;
        if at != from {
            // Another runner was here; what was read does not begin where the checkpoint is.
            transaction.rollback().await?;
            self.position = Some(at);
            return Ok(Step::Moved(at));
        }
        if !batch.is_empty() {
            follower.take(&mut *transaction, &batch).await?;
        }
        transaction.advance(&shard, to, None).await?;
        transaction.commit().await?;
        self.position = Some(to);
        Ok(Step::Moved(to))
    }
}
