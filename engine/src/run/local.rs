//! A processor that this node has the code of: what it reads, what it reports, and which of its shards run here.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use eventstore_core::{Checkpoint, EventStore, Query, Shard, Store, StoreError, Timestamp, engine::Brief};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};
use uuid::Uuid;

use crate::{
    failure::{Failure, Fault, caught},
    record::reads::Reads,
    run::{metrics, options::Options, processor::Processor},
    status::{State, Status},
};

/// Why this node cannot run a processor.
pub struct Cannot {
    /// Since when the processor had its state, as this node last read it; none: it had no row. Only compared for
    /// equality: each machine has a clock of its own.
    pub seen: Option<Timestamp>,
    /// Whether this node has seen the processor in another state than active since.
    pub stopped: bool,
    pub reason: String,
    /// The event that only newer programs read, if that is why.
    pub newer: Option<Reads>,
}

/// A processor whose code this node has.
pub struct LocalProcessor {
    pub name: String,
    pub processor: Arc<dyn Processor>,
    /// Its query; else why there is none. The tail reads by it, so it is asked for once.
    pub query: Result<Query, String>,
    /// The events that it reads in this program, and their fingerprint.
    pub reads: Reads,
    pub fingerprint: String,
    pub options: Options,
    pub report: watch::Sender<Status>,
    /// How many events all its shards may process in a second.
    pub pace: watch::Sender<Option<u64>>,
    /// Whether it keeps the shadow of a table, and runs only while that is wanted.
    pub shadow: bool,
    pub prepared: bool,
    /// Makes its tables.
    pub preparing: Option<Errand<()>>,
    /// Does what is done once it is built.
    pub building: Option<Errand<Option<StoreError>>>,
    /// Since when a shadow has its state. Another instant means that it has begun again.
    pub since: Option<Timestamp>,
    /// Since when it has its state, as this node last read it.
    pub seen: Option<Timestamp>,
    /// Whether a failure from before this program is over, as far as a start is enough for that.
    pub started: bool,
    /// Whether its parked keys are still to be tried again, because its program has started.
    pub retries: bool,
    /// Why it cannot run on this node, until its code is mended or an operator resumes it.
    pub cannot: Option<Cannot>,
    /// Whether this node stands aside, because another node reads more events.
    pub aside: bool,
    /// The other living nodes that have its code and do not say that they cannot run it.
    pub others: BTreeSet<Uuid>,
    pub shards: HashMap<Shard, LocalShard>,
}

/// A shard that this node runs.
pub struct LocalShard {
    pub epoch: u64,
    pub stop: watch::Sender<bool>,
    /// When it was asked to stop.
    pub asked: Option<Instant>,
    pub task: JoinHandle<()>,
}

impl LocalShard {
    /// Asks it to stop after the batch at hand. Returns when it was asked first.
    pub fn ask(&mut self) -> Instant {
        self.stop.send_replace(true);
        *self.asked.get_or_insert_with(Instant::now)
    }
}

/// Code of a processor in a task of its own, so that the node does not wait for it. The task ends if this is dropped.
pub struct Errand<T>(JoinHandle<Result<T, Failure>>);

impl<T: Send + 'static> Errand<T> {
    pub fn begin(work: impl Future<Output = Result<T, Failure>> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    /// Returns what has come of it, if it ends within a time.
    pub async fn within(&mut self, time: Duration) -> Option<Result<T, Failure>> {
        let done = timeout(time, &mut self.0).await.ok()?;
        Some(done.unwrap_or_else(|ended| {
            Err(match ended.try_into_panic() {
                Ok(panic) => Failure::panicked(&*panic).for_certain(),
                Err(ended) => StoreError::Busy(ended.into()).into(),
            })
        }))
    }

    /// Ends it, and waits for that up to a time.
    pub async fn end(mut self, time: Duration) {
        self.0.abort();
        let _ = timeout(time, &mut self.0).await;
    }
}

impl<T> Drop for Errand<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl LocalProcessor {
    pub fn new(processor: Arc<dyn Processor>, options: Options, report: watch::Sender<Status>) -> Self {
        let (name, shadow) = (processor.name(), processor.table().is_some_and(|table| table.shadow));
        let (pace, reads) = (watch::Sender::new(None), processor.reads());
        let fingerprint = reads.fingerprint();
        let query = catch_unwind(AssertUnwindSafe(|| processor.query()));
        let query = query.map_err(|panic| Failure::panicked(&*panic).to_string());
        Self {
            name,
            processor,
            query,
            reads,
            fingerprint,
            options,
            report,
            pace,
            shadow,
            prepared: false,
            preparing: None,
            building: None,
            since: None,
            seen: None,
            started: false,
            retries: options.retry_at_start,
            cannot: None,
            aside: false,
            others: BTreeSet::new(),
            shards: HashMap::new(),
        }
    }

    /// Reports that this node stands aside, and why.
    pub fn stand_aside(&self, store: &Store, failed: Failure, shards: Vec<(Shard, Checkpoint)>) {
        let failed: Arc<dyn Error + Send + Sync> = failed.told().into();
        store.mark_running(&self.name, Some(failed.clone()), false);
        self.report.send_modify(|status| {
            status.set_shards(shards);
            (status.state, status.stopped, status.error) = (State::Aside, false, Some(failed));
        });
    }

    /// Reports why readers are not sent to its table: in the status, and once in the logs.
    pub fn is_not_promoted(&self, parked: StoreError) {
        let same = |error: &Arc<dyn Error + Send + Sync>| error.to_string() == parked.to_string();
        if !self.report.borrow().error.as_ref().is_some_and(same) {
            tracing::warn!(
                projection = self.name,
                "readers of plain SQL are not sent to it: some of its keys are parked"
            );
            self.report.send_modify(|status| status.error = Some(Arc::new(parked)));
        }
    }

    pub fn report_failure(&self, store: &Store, failed: Failure) {
        // Where another node can run it, the processor has not stopped.
        let stopped = failed.fault == Fault::Program && self.others.is_empty();
        metrics::failed(&self.name);
        tracing::warn!(projection = self.name, error = %Brief(&*failed.reason), stopped, "projection failed");
        let failed: Arc<dyn Error + Send + Sync> = failed.told().into();
        store.mark_running(&self.name, Some(failed.clone()), stopped);
        self.report.send_modify(|status| {
            (status.error, status.stopped) = (Some(failed), stopped);
            if stopped {
                status.state = State::Failed;
            }
        });
    }
}

/// Prepares a processor before its first batch. `built`: whether it was built before.
pub async fn prepare(store: &dyn EventStore, processor: &dyn Processor, built: bool) -> Result<(), Failure> {
    caught(processor.prepare(store)).await?;
    if let Some(table) = processor.table()
        && built
    {
        // The read model may declare an index that it did not declare when the table was built.
        store.index(&table).await?;
    }
    Ok(())
}
