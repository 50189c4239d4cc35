//! A store that keeps rows with each append: the appends of a moment are recorded together.

use std::{
    any::Any,
    collections::VecDeque,
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use eventstore_core::{
    Append, BoxError, Checkpoint, EventStore, Events, Identity, NewTags, Position, Prefix, Raw, Read, Recorded, Rows,
    Select, Shard, Step, Store, StoreError, StoredSnapshot, StreamHead, StreamId, Table, Tables, Timestamp,
    Transaction, Written,
    doctor::Report,
    engine::{LETTERS, check_name},
};
use eventstore_engine::{
    Processor,
    failure::{Fault, caught},
    record::{
        self, PROCESSORS, Row,
        reads::{self, EVENT_SETS},
    },
};
use serde_json::value::RawValue;
use tokio::sync::oneshot::{self, error::TryRecvError};
use uuid::Uuid;

use super::{
    kept::{BATCH, Kept, fewer},
    transaction::InlineTransaction,
};

/// How far the rows may lag for an append to process the missing events itself, while others wait to append.
const GAP: u64 = 1_000;
/// How many appends, and how many events of theirs, are recorded together.
const APPENDS: usize = 256;
const EVENTS: usize = 10_000;
/// How often an append begins again because a program of another release has begun one of its processors again.
const AGAIN: u32 = 5;

/// A store that keeps rows with each append.
struct InlineStore {
    base: Arc<dyn EventStore>,
    kept: Arc<[Arc<Kept>]>,
    /// Held by the call that makes the tables and processes what was recorded before.
    ready: tokio::sync::Mutex<()>,
    /// Whether such a call has come to its end.
    made: AtomicBool,
    /// Held by the call that records the queued appends for all callers.
    turn: tokio::sync::Mutex<()>,
    queue: Mutex<VecDeque<Waiting>>,
}

/// An append, and the channel to the caller that waits for its answer.
type Waiting = (Append, oneshot::Sender<Result<Written, StoreError>>);

/// Returns the same store, which also runs a processor with each append; in place of the one of that name, if there is one.
pub(super) fn keep(store: &Store, processor: Arc<dyn Processor>) -> Store {
    let (base, mut kept) = match (store.as_ref() as &dyn Any).downcast_ref::<InlineStore>() {
        Some(inline) => (inline.base.clone(), inline.kept.to_vec()),
        None => (store.shared(), vec![]),
    };
    let new = Arc::new(Kept::new(processor));
    // Sorted by name, and always locked in that order, so that no two appends wait for each other for ever.
    match kept.binary_search_by(|there| there.name.cmp(&new.name)) {
        Ok(there) => kept[there] = new,
        Err(place) => kept.insert(place, new),
    }
    let (kept, ready, made) = (kept.into(), tokio::sync::Mutex::new(()), AtomicBool::new(false));
    store.through(Arc::new(InlineStore { base, kept, ready, made, turn: Default::default(), queue: Mutex::default() }))
}

impl InlineStore {
    /// Makes the tables that are missing, is admitted to each processor, and processes what was recorded before.
    /// Returns at once if that is done.
    async fn ready(&self) -> Result<(), StoreError> {
        if self.is_ready() {
            return Ok(());
        }
        let _making = self.ready.lock().await;
        if self.is_ready() {
            return Ok(());
        }
        let base = &*self.base;
        for kept in &*self.kept {
            let name = check_name(&kept.name, kept.processor.table().is_some());
            name.map_err(|refused| kept.stopped(StoreError::from(refused).into()))?;
        }
        // A table that a transaction reads must exist: reading one that does not would end the transaction.
        for table in [PROCESSORS, LETTERS, EVENT_SETS] {
            base.create(&table).await?;
            base.index(&table).await?;
        }
        reads::publish(base, self.kept.iter().map(|kept| kept.processor.reads()).collect()).await?;
        for kept in &*self.kept {
            // First, so that no reader finds a table that has only some of its rows.
            record::begin(base, &kept.name).await?;
            caught(kept.processor.prepare(base)).await.map_err(|failed| kept.stopped(failed))?;
        }
        for kept in &*self.kept {
            kept.admit(&self.base).await?;
        }
        self.catch_up().await?;
        let known = record::rows::<Row>(base, &PROCESSORS).await?;
        for kept in &*self.kept {
            if let Some(table) = kept.processor.table() {
                base.index(&table).await?;
            }
            if known.get(&kept.name).is_none_or(|row| row.built_at.is_none()) {
                // Readers of plain SQL are sent to the first version. An operator or a `Runner` sends them to a newer
                // one.
                caught(kept.processor.built(base, false)).await.map_err(|failed| kept.stopped(failed))?;
            }
        }
        self.made.store(true, Ordering::Release);
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.made.load(Ordering::Acquire) && self.kept.iter().all(|kept| kept.admitted().is_some())
    }

    /// Processes what other stores recorded, up to where the log ends now, in transactions of its own.
    async fn catch_up(&self) -> Result<(), StoreError> {
        let head = Store::from(self.base.clone()).head().await?;
        for kept in &*self.kept {
            let mut batch = BATCH;
            loop {
                let mut transaction = self.base.begin().await?;
                match kept.gap(&mut *transaction, Some(head), batch).await {
                    Ok(more) => {
                        transaction.commit().await?;
                        // The smaller batch may have been needed only because another session held a lock.
                        batch = (batch * 2).min(BATCH);
                        if !more {
                            break;
                        }
                    }
                    Err(error) => {
                        transaction.rollback().await?;
                        batch = match error {
                            StoreError::Stopped { .. } => fewer(batch, Fault::Event),
                            StoreError::Busy(_) => fewer(batch, Fault::World),
                            _ => None,
                        }
                        .ok_or(error)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes from the queue the appends that are recorded next.
    fn batch(&self) -> Vec<Waiting> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut batch, mut events) = (vec![], 0);
        while let Some((append, _)) = queue.front() {
            events += append.events().count();
            if batch.len() == APPENDS || !batch.is_empty() && events > EVENTS {
                break;
            }
            batch.extend(queue.pop_front());
        }
        // The append of a caller that has gone is not recorded.
        batch.retain(|(_, answer)| !answer.is_closed());
        batch
    }

    /// Records appends together; if that fails, each in a transaction of its own.
    async fn record_all(&self, batch: Vec<Waiting>) {
        let (appends, answers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let results = match self.record(&appends).await {
            Ok(results) => results,
            Err(error @ (StoreError::Busy(_) | StoreError::Unavailable(_) | StoreError::Unknown(_))) => {
                let error = shared(error);
                appends.iter().map(|_| Err(error())).collect()
            }
            Err(error) if appends.len() == 1 => vec![Err(error)],
            // One of them may be to blame; the others must not fail for it.
            Err(_) => {
                let mut results = vec![];
                for append in appends {
                    results.push(self.record(&[append]).await.and_then(|mut one| one.swap_remove(0)));
                }
                results
            }
        };
        for (answer, result) in answers.into_iter().zip(results) {
            // A caller that has gone needs no answer.
            let _ = answer.send(result);
        }
    }

    /// Records appends and their rows in one transaction. A refused append is an `Err` in its own slot.
    async fn record(&self, appends: &[Append]) -> Result<Vec<Result<Written, StoreError>>, StoreError> {
        let (mut gap, mut begun) = (GAP, 0);
        loop {
            let mut transaction = self.open().await?;
            match transaction.append_all(appends.to_vec(), gap).await {
                Ok(Some(results)) => {
                    transaction.commit().await?;
                    return Ok(results);
                }
                Ok(None) => {
                    transaction.inner.rollback().await?;
                    match self.catch_up().await {
                        Err(_) if !self.is_ready() && begun < AGAIN => {
                            begun += 1;
                            self.ready().await?;
                        }
                        done => done?,
                    }
                    // Other stores append as fast as this one catches up. Process the rest in the append's transaction,
                    // so that they wait.
                    gap = u64::MAX;
                }
                Err(error) => {
                    transaction.inner.rollback().await?;
                    if !self.is_ready() && begun < AGAIN {
                        // A program of another release has begun one of the processors again.
                        begun += 1;
                        self.ready().await?;
                        continue;
                    }
                    if matches!(error, StoreError::Busy(_)) && gap == GAP {
                        // The events that the rows lack may be too many for one statement: catch up in smaller
                        // transactions first.
                        gap = 0;
                        continue;
                    }
                    if matches!(error, StoreError::Stopped { .. }) {
                        // Catching up fails at the same event, with an error that names it.
                        self.catch_up().await?;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Opens a transaction, without processing what was recorded before.
    async fn open(&self) -> Result<InlineTransaction, StoreError> {
        let (inner, kept) = (self.base.begin().await?, self.kept.clone());
        Ok(InlineTransaction { inner, kept, unfinished: false, free: vec![] })
    }
}

/// Returns a function that makes the same error for every caller that waits.
fn shared(error: StoreError) -> impl Fn() -> StoreError {
    let (kind, reason): (fn(BoxError) -> StoreError, BoxError) = match error {
        StoreError::Busy(reason) => (StoreError::Busy, reason),
        StoreError::Unavailable(reason) => (StoreError::Unavailable, reason),
        StoreError::Unknown(reason) => (StoreError::Unknown, reason),
        error => (StoreError::Unknown, error.into()),
    };
    let reason: Arc<dyn Error + Send + Sync> = reason.into();
    move || kind(Box::new(reason.clone()))
}

#[async_trait]
impl EventStore for InlineStore {
    fn beneath(&self) -> Option<Arc<dyn EventStore>> {
        Some(self.base.clone())
    }

    async fn append(&self, append: Append) -> Result<Written, StoreError> {
        append.check()?;
        self.ready().await?;
        loop {
            let (answer, mut answered) = oneshot::channel();
            self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back((append.clone(), answer));
            let _turn = self.turn.lock().await;
            loop {
                match answered.try_recv() {
                    // The call that had the turn before has recorded it.
                    Ok(result) => return result,
                    // That call was dropped while it recorded this append. Append again: the ids are the same, so it is
                    // recorded once.
                    Err(TryRecvError::Closed) => break,
                    Err(TryRecvError::Empty) => self.record_all(self.batch()).await,
                }
            }
        }
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.ready().await?;
        Ok(Box::new(self.open().await?))
    }

    async fn read(&self, read: Read) -> Result<Events, StoreError> {
        self.base.read(read).await
    }

    async fn find(&self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        self.base.find(command).await
    }

    async fn recorded(&self, ids: Vec<Uuid>) -> Result<Vec<Recorded<Raw>>, StoreError> {
        self.base.recorded(ids).await
    }

    async fn streams(&self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        self.base.streams(category, after, limit).await
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError> {
        self.base.position_at(at).await
    }

    async fn prefix_at(&self, at: Timestamp) -> Result<Prefix, StoreError> {
        self.base.prefix_at(at).await
    }

    async fn identity(&self) -> Result<Identity, StoreError> {
        self.base.identity().await
    }

    async fn appended(&self, after: Position) {
        self.base.appended(after).await;
    }

    async fn is_replica(&self) -> Result<bool, StoreError> {
        self.base.is_replica().await
    }

    async fn flushed(&self, event: Uuid) -> Result<(), StoreError> {
        self.base.flushed(event).await
    }

    async fn step(&self, step: Step) -> Result<bool, StoreError> {
        self.base.step(step).await
    }

    async fn count(&self, read: Read) -> Result<u64, StoreError> {
        self.base.count(read).await
    }

    async fn retag(&self, events: Vec<NewTags>) -> Result<u64, StoreError> {
        self.base.retag(events).await
    }

    async fn doctor(&self) -> Result<Report, StoreError> {
        self.base.doctor().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.base.close().await
    }

    async fn snapshot(&self, boundary: &str, kind: &str) -> Result<Option<StoredSnapshot>, StoreError> {
        self.base.snapshot(boundary, kind).await
    }

    async fn read_from_snapshot(
        &self,
        stream: &StreamId,
        kind: &str,
    ) -> Result<(Option<StoredSnapshot>, Events), StoreError> {
        self.base.read_from_snapshot(stream, kind).await
    }

    async fn keep_snapshot(&self, snapshot: StoredSnapshot, instead_of: Option<u64>) -> Result<bool, StoreError> {
        self.base.keep_snapshot(snapshot, instead_of).await
    }

    async fn snapshots(&self, kind: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        self.base.snapshots(kind, limit).await
    }

    async fn rows_of(
        &self,
        shard: &Shard,
        from: &Checkpoint,
        table: Table,
        keys: Vec<String>,
    ) -> Result<Option<Vec<(String, Box<RawValue>)>>, StoreError> {
        self.base.rows_of(shard, from, table, keys).await
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        self.base.time().await
    }

    fn now(&self) -> Timestamp {
        self.base.now()
    }

    fn database(&self) -> &(dyn Any + Send + Sync) {
        self.base.database()
    }
}

#[async_trait]
impl Tables for InlineStore {
    async fn create(&self, table: &Table) -> Result<(), StoreError> {
        self.base.create(table).await
    }

    async fn index(&self, table: &Table) -> Result<(), StoreError> {
        self.base.index(table).await
    }

    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        match self.base.rows(rows.clone()).await {
            Err(StoreError::NotBuilt { table }) if self.kept.iter().any(|kept| kept.name == table) => {
                self.ready().await?;
                self.base.rows(rows).await
            }
            found => found,
        }
    }

    async fn select(&self, select: Select) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        match self.base.select(select.clone()).await {
            Err(StoreError::NotBuilt { table }) if self.kept.iter().any(|kept| kept.name == table) => {
                self.ready().await?;
                self.base.select(select).await
            }
            found => found,
        }
    }

    async fn count_rows(&self, select: Select) -> Result<u64, StoreError> {
        match self.base.count_rows(select.clone()).await {
            Err(StoreError::NotBuilt { table }) if self.kept.iter().any(|kept| kept.name == table) => {
                self.ready().await?;
                self.base.count_rows(select).await
            }
            found => found,
        }
    }

    async fn shards(&self, projection: Option<&str>) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        self.base.shards(projection).await
    }
}
