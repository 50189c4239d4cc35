//! What must be true over every store. Each test binary brings `fresh`, an empty store.

use std::{
    any::Any,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventstore::{
    Append, Blame, Changes, Checkpoint, Condition, EventStore, Events, Identity, NewEvent, NewTags, Page, Position,
    Prefix, Raw, Read, Recorded, Rows, Select, Shard, Store, StoreError, StoredSnapshot, StreamHead, StreamId, Table,
    Tables, Timestamp, Transaction, Version, Written, doctor::Report, testing::Clock,
};
use futures::future::BoxFuture;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use uuid::Uuid;

pub mod account;
pub mod balances;
pub mod bank;
pub mod campus;
pub mod cancellation;
pub mod closing;
pub mod courses;
pub mod decisions;
pub mod errors;
pub mod golden;
pub mod histories;
pub mod identity;
pub mod import;
pub mod inline;
pub mod instances;
pub mod interventions;
pub mod late;
pub mod message_faults;
pub mod messages;
pub mod mistakes;
pub mod parked;
pub mod processor_names;
pub mod projections;
pub mod promoting;
pub mod reading;
pub mod rebuild;
pub mod recipes;
pub mod releases;
pub mod resharding;
pub mod retag;
pub mod retries;
pub mod sagas;
pub mod scheduled;
pub mod snapshots;
pub mod subscriptions;
pub mod time;
pub mod toy;
pub mod transactions;
pub mod transfer;
pub mod transfers;
pub mod turns;
pub mod unreadable;

/// A store with nothing in it, and the time it lives by.
pub struct World {
    pub store: Store,
    pub inner: Arc<dyn EventStore>,
    clock: Option<Clock>,
    _kept: Box<dyn Any + Send + Sync>,
}

impl World {
    /// `clock` is none where the store has a server's clock.
    pub fn new(inner: Arc<dyn EventStore>, clock: Option<Clock>, kept: impl Any + Send + Sync) -> Self {
        Self { store: inner.clone().into(), inner, clock, _kept: Box::new(kept) }
    }

    /// The clock of a store that has its own; a server's cannot be moved.
    pub fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    /// An instant after everything recorded so far and before everything to come.
    pub async fn noon(&self) -> Timestamp {
        let Some(clock) = &self.clock else {
            let now = self.inner.now();
            // The clock of a server cannot be moved: only waited for.
            while self.inner.now() <= now + Duration::from_millis(2) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            return now + Duration::from_millis(1);
        };
        let noon = clock.now();
        clock.advance(Duration::from_secs(60));
        noon
    }
}

/// An empty store.
pub async fn world() -> World {
    crate::world().await
}

type Intruder = Box<dyn FnOnce(Store) -> BoxFuture<'static, ()> + Send>;

/// A store that lets somebody else in before its first append, or after its first read, once; counts what is asked of its tables; and has
/// snapshots only where the gate is open: while it has no permit they wait, once it is closed they fail.
pub struct Between {
    inner: Arc<dyn EventStore>,
    gate: Arc<Semaphore>,
    intruder: Mutex<Option<Intruder>>,
    after_read: Mutex<Option<Intruder>>,
    counts: Arc<Mutex<Counts>>,
    /// Of so many commits one is not answered.
    unanswered: Option<usize>,
    commits: Arc<AtomicUsize>,
    /// Commits are not answered, and done later.
    late: Arc<AtomicBool>,
    /// What a command has caused cannot be found.
    lost: Arc<AtomicBool>,
    /// Nothing is safe from a crash while it has no permit.
    disk: Arc<Semaphore>,
    /// Rows of a shard cannot be read while it has no permit.
    shards: Arc<Semaphore>,
    /// How far the clock of this program is behind.
    behind: Duration,
    /// Let in at the first transaction after a table of this version was given its indexes.
    indexed: Mutex<Option<(u32, Intruder)>>,
    at_begin: AtomicBool,
    /// Of the transactions to come, this one cannot begin; 0: all can.
    breaks: Arc<AtomicUsize>,
    /// No transaction can begin.
    down: Arc<AtomicBool>,
    /// How many dead letters were read.
    letters: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    pub reads_of_rows: usize,
    pub writes_of_rows: usize,
}

impl Between {
    pub fn new(inner: &Arc<dyn EventStore>) -> Self {
        let open = || Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let (gate, disk, shards) = (open(), open(), open());
        let (intruder, after_read) = Default::default();
        let (counts, commits, late, lost) = Default::default();
        let (inner, letters, behind) = (inner.clone(), Arc::default(), Duration::ZERO);
        let (indexed, at_begin, breaks, down) = Default::default();
        let unanswered = None;
        Self {
            inner,
            gate,
            intruder,
            after_read,
            counts,
            unanswered,
            commits,
            late,
            lost,
            disk,
            shards,
            behind,
            indexed,
            at_begin,
            breaks,
            down,
            letters,
        }
    }

    /// The same on a machine whose clock is behind.
    pub fn behind(self, behind: Duration) -> Self {
        Self { behind, ..self }
    }

    /// Lets in before the first transaction after a table of a version was given its indexes.
    pub fn let_in_after_index<F: Future<Output = ()> + Send + 'static>(
        self,
        version: u32,
        intruder: impl FnOnce(Store) -> F + Send + 'static,
    ) -> Self {
        let intruder: Intruder = Box::new(|store| Box::pin(intruder(store)));
        Self { indexed: Mutex::new(Some((version, intruder))), ..self }
    }

    /// Transactions of this number from now on, 1 the next one, cannot begin, once.
    pub fn broken_at(self, breaks: &Arc<AtomicUsize>) -> Self {
        Self { breaks: breaks.clone(), ..self }
    }

    /// No transaction can begin while this is so.
    pub fn down_while(self, down: &Arc<AtomicBool>) -> Self {
        Self { down: down.clone(), ..self }
    }

    pub fn frozen_by(self, shards: &Arc<Semaphore>) -> Self {
        Self { shards: shards.clone(), ..self }
    }

    pub fn flushed_by(self, disk: &Arc<Semaphore>) -> Self {
        Self { disk: disk.clone(), ..self }
    }

    pub fn gated(self, gate: &Arc<Semaphore>) -> Self {
        Self { gate: gate.clone(), ..self }
    }

    pub fn let_in<F: Future<Output = ()> + Send + 'static>(
        self,
        intruder: impl FnOnce(Store) -> F + Send + 'static,
    ) -> Self {
        let intruder: Intruder = Box::new(move |store| Box::pin(intruder(store)));
        Self { intruder: Mutex::new(Some(intruder)), ..self }
    }

    pub fn let_in_after_read<F: Future<Output = ()> + Send + 'static>(
        self,
        intruder: impl FnOnce(Store) -> F + Send + 'static,
    ) -> Self {
        let intruder: Intruder = Box::new(move |store| Box::pin(intruder(store)));
        Self { after_read: Mutex::new(Some(intruder)), ..self }
    }

    /// Nobody hears of every so many-th commit, by turns of one that was done and of one that was not.
    pub fn unanswered(self, every: usize) -> Self {
        Self { unanswered: Some(every), ..self }
    }

    pub fn letters(&self) -> Arc<AtomicUsize> {
        self.letters.clone()
    }

    pub fn counts(&self) -> Arc<Mutex<Counts>> {
        self.counts.clone()
    }

    /// While it is set, nobody can find what a command has caused.
    pub fn lost(&self) -> Arc<AtomicBool> {
        self.lost.clone()
    }

    /// While it is set, nobody hears of a commit, and each is done only after a while.
    pub fn late(&self) -> Arc<AtomicBool> {
        self.late.clone()
    }
}

#[async_trait::async_trait]
impl EventStore for Between {
    async fn read(&self, read: Read) -> Result<Events, StoreError> {
        let events = self.inner.read(read).await;
        let intruder = self.after_read.lock().unwrap().take();
        if let Some(intruder) = intruder {
            intruder(self.inner.clone().into()).await;
        }
        events
    }
    async fn append(&self, append: Append) -> Result<Written, StoreError> {
        let intruder = self.intruder.lock().unwrap().take();
        if let Some(intruder) = intruder {
            intruder(self.inner.clone().into()).await;
        }
        self.inner.append(append).await
    }
    async fn find(&self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        if self.lost.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("not now".into()));
        }
        self.inner.find(command).await
    }
    async fn recorded(&self, ids: Vec<Uuid>) -> Result<Vec<Recorded<Raw>>, StoreError> {
        self.inner.recorded(ids).await
    }
    async fn streams(&self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        self.inner.streams(category, after, limit).await
    }
    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError> {
        self.inner.position_at(at).await
    }
    async fn prefix_at(&self, at: Timestamp) -> Result<Prefix, StoreError> {
        self.inner.prefix_at(at).await
    }
    async fn identity(&self) -> Result<Identity, StoreError> {
        self.inner.identity().await
    }
    async fn appended(&self, after: Position) {
        self.inner.appended(after).await
    }
    async fn is_replica(&self) -> Result<bool, StoreError> {
        self.inner.is_replica().await
    }

    async fn flushed(&self, event: Uuid) -> Result<(), StoreError> {
        let _permit = self.disk.acquire().await.map_err(|closed| StoreError::Unavailable(closed.into()))?;
        self.inner.flushed(event).await
    }
    async fn rows_of(
        &self,
        shard: &Shard,
        from: &Checkpoint,
        table: Table,
        keys: Vec<String>,
    ) -> Result<Option<Vec<(String, Box<RawValue>)>>, StoreError> {
        let _permit = self.shards.acquire().await.map_err(|closed| StoreError::Unavailable(closed.into()))?;
        self.inner.rows_of(shard, from, table, keys).await
    }
    async fn time(&self) -> Result<Timestamp, StoreError> {
        self.inner.time().await
    }
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        if self.at_begin.swap(false, Ordering::SeqCst) {
            let intruder = self.indexed.lock().unwrap().take();
            if let Some((_, intruder)) = intruder {
                intruder(self.inner.clone().into()).await;
            }
        }
        let less = |left: usize| left.checked_sub(1);
        let breaks = self.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) == Ok(1);
        if breaks || self.down.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the connection broke".into()));
        }
        let (inner, counts, commits) = (self.inner.begin().await?, self.counts.clone(), self.commits.clone());
        let (late, letters) = (self.late.clone(), self.letters.clone());
        Ok(Box::new(Counted { inner, counts, unanswered: self.unanswered, commits, late, letters }))
    }
    async fn count(&self, read: Read) -> Result<u64, StoreError> {
        self.inner.count(read).await
    }
    async fn retag(&self, events: Vec<NewTags>) -> Result<u64, StoreError> {
        self.inner.retag(events).await
    }
    async fn doctor(&self) -> Result<Report, StoreError> {
        self.inner.doctor().await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
    async fn snapshot(&self, boundary: &str, kind: &str) -> Result<Option<StoredSnapshot>, StoreError> {
        if self.gate.is_closed() {
            return Err(StoreError::Unavailable("closed".into()));
        }
        self.inner.snapshot(boundary, kind).await
    }
    async fn read_from_snapshot(
        &self,
        stream: &StreamId,
        kind: &str,
    ) -> Result<(Option<StoredSnapshot>, Events), StoreError> {
        if self.gate.is_closed() {
            return Err(StoreError::Unavailable("closed".into()));
        }
        let found = self.inner.read_from_snapshot(stream, kind).await;
        let intruder = self.after_read.lock().unwrap().take();
        if let Some(intruder) = intruder {
            intruder(self.inner.clone().into()).await;
        }
        found
    }
    async fn keep_snapshot(&self, snapshot: StoredSnapshot, instead_of: Option<u64>) -> Result<bool, StoreError> {
        let _permit = self.gate.acquire().await.map_err(|closed| StoreError::Unavailable(closed.into()))?;
        self.inner.keep_snapshot(snapshot, instead_of).await
    }
    async fn snapshots(&self, kind: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        self.inner.snapshots(kind, limit).await
    }
    fn now(&self) -> Timestamp {
        self.inner.now() - self.behind
    }
    fn database(&self) -> &(dyn Any + Send + Sync) {
        self.inner.database()
    }
}

#[async_trait::async_trait]
impl Tables for Between {
    async fn create(&self, table: &Table) -> Result<(), StoreError> {
        self.inner.create(table).await
    }
    async fn index(&self, table: &Table) -> Result<(), StoreError> {
        let done = self.inner.index(table).await;
        let here = self.indexed.lock().unwrap().as_ref().is_some_and(|(version, _)| *version == table.version);
        self.at_begin.fetch_or(here, Ordering::SeqCst);
        done
    }
    async fn select(&self, select: Select) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        self.inner.select(select).await
    }
    async fn count_rows(&self, select: Select) -> Result<u64, StoreError> {
        self.inner.count_rows(select).await
    }
    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        let of_a_model = matches!(&rows, Rows::Keys { table, keys } if table.version > 0 && !keys.is_empty());
        self.counts.lock().unwrap().reads_of_rows += usize::from(of_a_model);
        let of_letters = of_letters(&rows);
        let rows = self.inner.rows(rows).await;
        let read = rows.as_ref().map_or(0, |rows| if of_letters { rows.len() } else { 0 });
        self.letters.fetch_add(read, Ordering::SeqCst);
        rows
    }
    async fn shards(&self, projection: Option<&str>) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        self.inner.shards(projection).await
    }
}

struct Counted {
    inner: Box<dyn Transaction>,
    counts: Arc<Mutex<Counts>>,
    unanswered: Option<usize>,
    commits: Arc<AtomicUsize>,
    late: Arc<AtomicBool>,
    letters: Arc<AtomicUsize>,
}

fn of_letters(rows: &Rows) -> bool {
    match rows {
        Rows::Keys { table, .. } | Rows::Where { table, .. } => table.name == "dead_letters",
        Rows::Whole { table, .. } => table == "dead_letters",
    }
}

#[async_trait::async_trait]
impl Transaction for Counted {
    async fn time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.time().await
    }
    async fn lock(&mut self, shard: &Shard) -> Result<Option<Checkpoint>, StoreError> {
        self.inner.lock(shard).await
    }
    async fn lock_projection(&mut self, projection: &str) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        self.inner.lock_projection(projection).await
    }
    async fn put_shards(&mut self, projection: &str, shards: Vec<(Shard, Checkpoint)>) -> Result<(), StoreError> {
        self.inner.put_shards(projection, shards).await
    }
    async fn append(&mut self, append: Append) -> Result<Written, StoreError> {
        self.inner.append(append).await
    }
    async fn hold(
        &mut self,
        unchanged: Vec<(StreamId, Version)>,
        condition: Option<Condition>,
    ) -> Result<(), StoreError> {
        self.inner.hold(unchanged, condition).await
    }

    async fn holds(&mut self) -> Result<bool, StoreError> {
        self.inner.holds().await
    }
    async fn read(&mut self, read: Read) -> Result<Page, StoreError> {
        self.inner.read(read).await
    }
    async fn find(&mut self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        self.inner.find(command).await
    }
    async fn streams(&mut self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        self.inner.streams(category, after, limit).await
    }
    async fn position_at(&mut self, at: Timestamp) -> Result<Position, StoreError> {
        self.inner.position_at(at).await
    }
    async fn prefix_at(&mut self, at: Timestamp) -> Result<Prefix, StoreError> {
        self.inner.prefix_at(at).await
    }
    async fn rows(&mut self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        let of_a_model = matches!(&rows, Rows::Keys { table, .. } | Rows::Where { table, .. } if table.version > 0);
        self.counts.lock().unwrap().reads_of_rows += usize::from(of_a_model);
        let of_letters = of_letters(&rows);
        let rows = self.inner.rows(rows).await;
        let read = rows.as_ref().map_or(0, |rows| if of_letters { rows.len() } else { 0 });
        self.letters.fetch_add(read, Ordering::SeqCst);
        rows
    }
    async fn write(&mut self, changes: Changes) -> Result<(), StoreError> {
        self.counts.lock().unwrap().writes_of_rows += usize::from(changes.table.version > 0);
        self.inner.write(changes).await
    }
    async fn swap(&mut self, table: &str) -> Result<(), StoreError> {
        self.inner.swap(table).await
    }
    async fn publish(&mut self, name: &str, table: &str) -> Result<(), StoreError> {
        self.inner.publish(name, table).await
    }
    async fn remove(&mut self, table: &str) -> Result<(), StoreError> {
        self.inner.remove(table).await
    }
    async fn advance(&mut self, shard: &Shard, to: Position, event: Option<Uuid>) -> Result<(), StoreError> {
        self.inner.advance(shard, to, event).await
    }
    async fn lend(&mut self) -> Result<(), StoreError> {
        self.inner.lend().await
    }
    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        self.inner.connection()
    }
    fn returned(&mut self) {
        self.inner.returned();
    }
    async fn check(&mut self) -> Result<(), StoreError> {
        self.inner.check().await
    }
    fn blame(&self, error: &(dyn std::error::Error + 'static)) -> Option<Blame> {
        self.inner.blame(error)
    }
    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        if self.late.load(Ordering::SeqCst) {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                self.inner.commit().await
            });
            return Err(StoreError::Unknown("nobody has heard yet".into()));
        }
        let before = self.commits.fetch_add(1, Ordering::SeqCst);
        match self.unanswered {
            Some(every) if before % every == every - 1 => {
                match before / every % 2 {
                    0 => self.inner.commit().await?,
                    _ => self.inner.rollback().await?,
                }
                Err(StoreError::Unknown("nobody has heard".into()))
            }
            _ => self.inner.commit().await,
        }
    }
    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.rollback().await
    }
}

/// An event as nobody's type would write it.
pub fn raw(name: &str, body: &[u8]) -> NewEvent {
    NewEvent {
        id: Uuid::now_v7(),
        schema: 1,
        occurred_at: None,
        metadata: Default::default(),
        data: Raw { name: name.into(), tags: vec![], body: body.to_vec() },
    }
}
