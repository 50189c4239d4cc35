//! A processor that this node has the code of: what it reads, what it reports, and which of its shards run here.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    sync::Arc,
};

use eventstore_core::{Checkpoint, EventStore, Shard, Store, StoreError, Timestamp, engine::Brief};
use tokio::{sync::watch, task::JoinHandle};
use uuid::Uuid;

use crate::{
    failure::{Failure, Fault},
    record::{self, Row, reads::Reads},
    run::{metrics, options::Options, processor::Processor},
    status::{State, Status},
};

/// Why this node cannot run a processor.
pub struct Cannot {
    pub since: Timestamp,
    pub reason: String,
    /// The event that only newer programs read, if that is why.
    pub newer: Option<Reads>,
}

/// A processor whose code this node has.
pub struct LocalProcessor {
    pub name: String,
    pub processor: Arc<dyn Processor>,
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
    /// Since when a shadow has its state. Another instant means that it has begun again.
    pub since: Option<Timestamp>,
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
    pub task: JoinHandle<()>,
}

impl LocalProcessor {
    pub fn new(processor: Arc<dyn Processor>, options: Options, report: watch::Sender<Status>) -> Self {
        let (name, shadow) = (processor.name(), processor.table().is_some_and(|table| table.shadow));
        let (pace, reads) = (watch::Sender::new(None), processor.reads());
        let fingerprint = reads.fingerprint();
        Self {
            name,
            processor,
            reads,
            fingerprint,
            options,
            report,
            pace,
            shadow,
            prepared: false,
            since: None,
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

/// Prepares a processor before its first batch.
pub async fn prepare(store: &dyn EventStore, processor: &dyn Processor, known: Option<&Row>) -> Result<(), Failure> {
    if known.is_none() {
        record::begin(store, &processor.name()).await?;
    }
    processor.prepare(store).await?;
    if let Some(table) = processor.table()
        && known.is_some_and(|known| known.built_at.is_some())
    {
        // The read model may declare an index that it did not declare when the table was built.
        store.index(&table).await?;
    }
    Ok(())
}
