//! Keeps read models in the transaction of each append, so that a read after an append sees it.

use std::{
    any::Any,
    collections::{HashMap, VecDeque},
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use eventstore_core::{
    Append, Blame, BoxError, Changes, Checkpoint, Condition, DeadLetter, EventStore, Events, Identity, Invalid,
    NewEvent, NewTags, Page, Position, Prefix, Raw, Read, ReadModel, Recorded, Rows, Select, Shard, Step, Store,
    StoreError, StoredSnapshot, StreamHead, StreamId, Table, Tables, Timestamp, Transaction, Version, Written,
    doctor::Report, engine::LETTERS,
};
use futures::TryStreamExt;
use serde_json::value::RawValue;
use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::sleep,
};
use uuid::Uuid;

use eventstore_engine::{
    failure::{Failure, Fault, Halt},
    record::{
        self, PROCESSORS, ProcessorState, Row, dead_letters,
        queue::Queue,
        reads::{self, EVENT_SETS, Reads},
    },
    run::{
        admission::{Admitted, How, Missed, admit},
        page::{DecodedPage, id_within, unforked},
        parked::Parked,
        processor::{Part, Processor, process},
        refold::{self, Fence, Refold, pending},
    },
};

use crate::{
    projection::{Projection, Sql},
    read_model::Folded,
};

/// How many events that were recorded by other stores are processed together.
const BATCH: usize = 1_000;
/// How far the rows may lag for an append to process the missing events itself, while others wait to append.
const GAP: u64 = 1_000;
/// How many appends, and how many events of theirs, are recorded together.
const APPENDS: usize = 256;
const EVENTS: usize = 10_000;
/// How often, and after what pause, processing the events that were passed begins again because others moved the
/// shards.
const LOST: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);
/// How often an append begins again because a program of another release has begun one of its processors again.
const AGAIN: u32 = 5;

/// Read models and projections in SQL that are kept in the transaction of each append.
///
/// Every event that the returned store appends is in their rows when it is recorded, whether by a command or without
/// one, alone or in a caller's transaction: `get` sees it at once, from any process. Every append pays for it: see the
/// [guide](https://docs.rs/eventstore). If they cannot process an event, the append fails with
/// [`StoreError::NotProjected`], and the event is not recorded.
///
/// The name and the checkpoint are those a [`Runner`](eventstore_engine::Runner) has, and a runner of the same read
/// model does no harm: it processes what other stores record. Without a runner, the next append does; if it cannot
/// process an event that is recorded already, it fails with [`StoreError::Stopped`], which names the event.
///
/// ```
/// # use eventstore::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Event, Clone)]
/// # enum AccountEvent { Deposited { amount: i64 } }
/// # #[derive(Aggregate)]
/// # struct Account;
/// # impl Evolve for Account { type Event = AccountEvent; fn evolve(&mut self, _: AccountEvent) {} }
/// # #[derive(Clone)]
/// # struct Deposit { amount: i64 }
/// # impl Decide<Deposit> for Account {
/// #     fn decide(&self, Deposit { amount }: Deposit) -> Decision<Self> { Ok(vec![AccountEvent::Deposited { amount }]) }
/// # }
/// # #[derive(ReadModel, Serialize, Deserialize, Default)]
/// # struct Balance { balance: i64 }
/// # impl Project for Balance {
/// #     type Event = AccountEvent;
/// #     fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
/// #         let AccountEvent::Deposited { amount } = event.data;
/// #         row.balance += amount;
/// #     }
/// # }
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = eventstore::connect("memory:").await?.with_inline::<Balance>();
/// let ann = Id::<Account>::from("ann");
/// store.execute(&ann, Deposit { amount: 100 }).await?;
/// assert_eq!(store.read_model::<Balance>().get(&ann).await?.map(|row| row.balance), Some(100));
/// # Ok(())
/// # }
/// ```
pub trait Inline {
    /// Returns the same store, which keeps the rows of a read model with each append.
    fn with_inline<M: ReadModel>(self) -> Self;

    /// Returns the same store, which runs a projection in SQL with each append.
    fn with_inline_projection<P: Projection>(self, projection: P) -> Self;
}

impl Inline for Store {
    fn with_inline<M: ReadModel>(self) -> Self {
        with(&self, Arc::new(Folded::<M>::default()))
    }

    fn with_inline_projection<P: Projection>(self, projection: P) -> Self {
        with(&self, Arc::new(Sql(projection)))
    }
}

fn with(store: &Store, processor: Arc<dyn Processor>) -> Store {
    let (base, mut kept) = match (store.as_ref() as &dyn Any).downcast_ref::<InlineStore>() {
        Some(inline) => (inline.base.clone(), inline.kept.to_vec()),
        None => (store.shared(), vec![]),
    };
    // Sorted by name, and always locked in that order, so that no two appends wait for each other for ever.
    let name = processor.name();
    let place = kept.binary_search_by(|there| there.name.cmp(&name));
    let new = Arc::new(Kept { processor, name, free: Mutex::default(), admitted: Mutex::default() });
    match place {
        Ok(there) => kept[there] = new,
        Err(place) => kept.insert(place, new),
    }
    let (kept, ready) = (kept.into(), tokio::sync::Mutex::new(()));
    store.through(Arc::new(InlineStore { base, kept, ready, turn: Default::default(), queue: Mutex::default() }))
}

/// A store that keeps rows with each append.
struct InlineStore {
    base: Arc<dyn EventStore>,
    kept: Arc<[Arc<Kept>]>,
    /// Held by the call that makes the tables and processes what was recorded before.
    ready: tokio::sync::Mutex<()>,
    /// Held by the call that records the queued appends for all callers.
    turn: tokio::sync::Mutex<()>,
    queue: Mutex<VecDeque<Waiting>>,
}

/// An append, and the channel to the caller that waits for its answer.
type Waiting = (Append, oneshot::Sender<Result<Written, StoreError>>);

/// A processor that is kept with each append.
struct Kept {
    processor: Arc<dyn Processor>,
    name: String,
    /// Positions and epochs at which no key was parked. Parking moves one or raises the other, so equal values mean
    /// that the dead letters need not be read.
    free: Mutex<Option<Places>>,
    /// What was read when this program was admitted; `None` before, and once another program has begun the processor
    /// again.
    admitted: Mutex<Option<Seen>>,
}

/// The shards of a processor as they were when this program was admitted to it.
#[derive(Clone, PartialEq)]
struct Seen {
    /// The shards and their epochs: a program that reads more events raises the epochs.
    epochs: Vec<(Shard, u64)>,
    /// The fingerprint of the events that the processor was processed with.
    reads: Option<String>,
    /// The events that newer programs read and this one does not.
    lacks: Reads,
}

fn epochs(shards: &[(Shard, Checkpoint)]) -> Vec<(Shard, u64)> {
    shards.iter().map(|(shard, at)| (shard.clone(), at.epoch)).collect()
}

/// The position and the epoch of each shard.
type Places = Vec<(Shard, Position, u64)>;

fn places(shards: &[(Shard, Checkpoint)]) -> Places {
    shards.iter().map(|(shard, at)| (shard.clone(), at.position, at.epoch)).collect()
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
        // A table that a transaction reads must exist: reading one that does not would end the transaction.
        for table in [PROCESSORS, LETTERS, EVENT_SETS] {
            base.create(&table).await?;
            base.index(&table).await?;
        }
        reads::publish(base, self.kept.iter().map(|kept| kept.processor.reads()).collect()).await?;
        for kept in &*self.kept {
            kept.processor.prepare(base).await.map_err(|failed| kept.stopped(failed))?;
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
                kept.processor.built(base, false).await?;
            }
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.kept.iter().all(|kept| kept.admitted().is_some())
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

impl Kept {
    fn admitted(&self) -> Option<Seen> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn see(&self, seen: Option<Seen>) {
        *self.admitted.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// Returns the error of an append when the processor cannot go on: an event that is recorded already has failed, or
    /// all of the processor.
    fn stopped(&self, failed: Failure) -> StoreError {
        if let Some(newer) = failed.newer() {
            return self.newer(&newer);
        }
        match failed.fault {
            Fault::World => world(failed),
            _ => StoreError::Stopped { projection: self.name.clone(), reason: failed.told() },
        }
    }

    fn newer(&self, events: &Reads) -> StoreError {
        StoreError::Newer { projection: self.name.clone(), events: events.to_string() }
    }

    /// Returns the error of an append when the processor cannot process the events that are being appended.
    fn refused(&self, failed: Failure) -> StoreError {
        match failed.fault {
            Fault::World => world(failed),
            Fault::Program if failed.event.is_none() => self.stopped(failed),
            _ => StoreError::NotProjected { projection: self.name.clone(), reason: failed.told() },
        }
    }

    fn halted(&self, halt: Halt) -> StoreError {
        match halt {
            Halt::Lost => StoreError::Busy("another node goes on with it".into()),
            Halt::Failed(failed) => self.stopped(failed.for_certain()),
        }
    }

    /// Admits this program to the processor, or fails. Events that were passed without being read are processed first.
    /// Where newer programs read more events, this one is admitted; [`gap`](Self::gap) fails once one of those events
    /// is left to it.
    async fn admit(&self, base: &Arc<dyn EventStore>) -> Result<(), StoreError> {
        let mut lost = 0;
        'anew: loop {
            let mut transaction = base.begin().await?;
            let mut shards = transaction.lock_projection(&self.name).await?;
            let known = record::row(&mut *transaction, &self.name).await?;
            let is_new = known.is_none();
            let mut known = known.unwrap_or_else(|| Row::new(base.now(), Position(0)));
            let how = How { start: None, shards: 1, shrinks: false };
            let admitted = admit(&mut *transaction, &*self.processor, &mut known, &mut shards, how).await;
            let missed = Missed::of(&known).map_err(|failed| self.stopped(failed))?;
            let lacks = match admitted.map_err(|failed| self.stopped(failed))? {
                Admitted::AsItWas => Reads::default(),
                Admitted::Lacks(events) => events,
                Admitted::Anew => {
                    record::put(&mut *transaction, &self.name, &known).await?;
                    transaction.put_shards(&self.name, shards).await?;
                    transaction.commit().await?;
                    continue;
                }
                Admitted::Failed(cause) => {
                    let failed = Failure::from(cause.error(&self.name));
                    let (state, reason) = (ProcessorState::Failed, Some(cause.reason(&failed)));
                    (known.state, known.reason, known.since) = (state, reason, base.now());
                    known.cause = serde_json::to_value(cause).ok();
                    record::put(&mut *transaction, &self.name, &known).await?;
                    transaction.commit().await?;
                    return Err(self.stopped(failed));
                }
            };
            if is_new {
                record::put(&mut *transaction, &self.name, &known).await?;
                transaction.commit().await?;
            } else {
                transaction.rollback().await?;
            }
            if missed.is_empty() {
                self.see(Some(Seen { epochs: epochs(&shards), reads: known.reads, lacks }));
                return Ok(());
            }
            if !lacks.is_empty() {
                return Err(self.newer(&lacks));
            }
            for (shard, at) in shards {
                for (names, range, after) in pending(&missed, &shard) {
                    let fence = InlineFence { base: base.clone(), shard: shard.clone(), at };
                    let done = match self.processor.table() {
                        Some(table) => {
                            let (store, processor, until) = (&**base, &*self.processor, at.position);
                            let refold =
                                Refold { store, processor, table, fence: &fence, names: &names, until, parks: None };
                            refold.run(range).await
                        }
                        None => self.look_back(&fence, &names, range, after).await,
                    };
                    match done {
                        Ok(()) => {}
                        // Another node has moved or taken the shard.
                        Err(Halt::Lost) if lost < LOST => {
                            lost += 1;
                            sleep(PAUSE).await;
                            continue 'anew;
                        }
                        Err(halt) => return Err(self.halted(halt)),
                    }
                }
            }
        }
    }

    /// Has a projection in SQL process events that it passed.
    async fn look_back(
        &self,
        fence: &InlineFence,
        names: &[String],
        range: Shard,
        mut after: Position,
    ) -> Result<(), Halt> {
        let mut batch = BATCH;
        loop {
            let (query, until) = (reads::named(names), Some(fence.at.position));
            let read = Read { query, after, until, limit: Some(batch), ..Read::default() };
            let events: Vec<_> = fence.base.read(read).await?.events.try_collect().await?;
            let (mut transaction, _) = fence.open().await?;
            let Some(last) = events.last() else {
                refold::progress(&mut *transaction, &range, names, None).await?;
                return Ok(transaction.commit().await?);
            };
            let to = last.position;
            let parked = dead_letters::first_within(&mut *transaction, &self.name).await?;
            let (parked, places) = (Parked::of(parked, &range), 0..events.len());
            let page = DecodedPage::new(after, to, Some(last.id), events);
            let part = Part { page: &page, places, shard: &range, parked: &parked, only: None };
            let waiting = match process(&*self.processor, &mut *transaction, &part, None).await {
                Ok(waiting) => waiting,
                Err(failed) => {
                    transaction.rollback().await?;
                    batch = fewer(batch, failed.fault).ok_or(failed)?;
                    continue;
                }
            };
            let waiting = behind_others(&range, &page, &waiting);
            if !waiting.is_empty() {
                transaction.write(dead_letters::changes(&waiting, &[])?).await?;
            }
            refold::progress(&mut *transaction, &range, names, Some(to)).await?;
            transaction.commit().await?;
            after = to;
        }
    }

    /// Locks the processor and returns its shards. Fails if the log has lost the event of a checkpoint.
    /// [`StoreError::Busy`] if another program has begun the processor again since this one was admitted.
    async fn lock(&self, transaction: &mut dyn Transaction) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        let shards = transaction.lock_projection(&self.name).await?;
        let mut places: Vec<_> = shards.iter().map(|(_, at)| at).collect();
        places.sort_by_key(|at| at.position);
        places.dedup_by_key(|at| at.position);
        for at in places {
            unforked(transaction, at).await.map_err(|error| self.stopped(error.into()))?;
        }
        let epochs = epochs(&shards);
        let begun_again = || StoreError::Busy(format!("`{}` was begun again meanwhile", self.name).into());
        let mut seen = self.admitted().ok_or_else(begun_again)?;
        if seen.epochs == epochs {
            return Ok(shards);
        }
        let known = record::row(transaction, &self.name).await?;
        let same = |row: &Row| row.reads == seen.reads && row.missed.is_none() && row.word.is_none();
        if shards.is_empty() || !known.as_ref().is_some_and(same) {
            self.see(None);
            return Err(begun_again());
        }
        seen.epochs = epochs;
        self.see(Some(seen));
        Ok(shards)
    }

    /// Processes the next events that other stores recorded, up to a position or to the end of the log. Returns whether
    /// there may be more. [`StoreError::Newer`] if one of them is an event that only newer programs read.
    async fn gap(
        &self,
        transaction: &mut dyn Transaction,
        until: Option<Position>,
        batch: usize,
    ) -> Result<bool, StoreError> {
        let mut shards = self.lock(transaction).await?;
        let after = behind(&shards);
        let lacks = self.admitted().map(|seen| seen.lacks).unwrap_or_default();
        let unknown = lacks.names_beyond(&self.processor.reads());
        let mut query = self.processor.query();
        if !unknown.is_empty() {
            query.items.extend(reads::named(&unknown).items);
        }
        let read = Read { query, after, until, limit: Some(batch), ..Read::default() };
        let Page { head, events, .. } = transaction.read(read).await?;
        if events.iter().any(|event| unknown.iter().any(|name| **name == *event.data.name)) {
            return Err(self.newer(&lacks));
        }
        let end = until.map_or(head, |until| until.min(head));
        let full = events.len() == batch;
        let to = match events.last() {
            Some(last) if full => last.position,
            _ => end.max(after),
        };
        if to == after {
            return Ok(false);
        }
        let last = match events.last() {
            Some(last) if last.position == to => Some(last.id),
            _ => id_within(transaction, to).await?,
        };
        let page = DecodedPage::new(after, to, last, events);
        self.process(transaction, &mut shards, &page, Self::stopped).await?;
        Ok(full)
    }

    /// Processes a page and moves the checkpoints. Events of parked keys wait with them. Returns where the shards are
    /// then, or `None` if keys are parked.
    async fn process(
        &self,
        transaction: &mut dyn Transaction,
        shards: &mut [(Shard, Checkpoint)],
        page: &DecodedPage,
        told: fn(&Self, Failure) -> StoreError,
    ) -> Result<Option<Places>, StoreError> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let parked = match free == Some(places(shards)) {
            true => vec![],
            false => dead_letters::first_within(transaction, &self.name).await?,
        };
        let mut waits = false;
        for (shard, at) in shards.iter_mut() {
            let parked = Parked::of(parked.clone(), shard);
            waits |= !parked.is_empty();
            let places = page.place_after(at.position)..page.events.len();
            let part = Part { page, places, shard, parked: &parked, only: None };
            let waiting =
                process(&*self.processor, transaction, &part, None).await.map_err(|failed| told(self, failed))?;
            let waiting = behind_others(shard, page, &waiting);
            if !waiting.is_empty() {
                transaction.write(dead_letters::changes(&waiting, &[])?).await?;
            }
            transaction.advance(shard, page.until, page.last).await?;
            at.position = at.position.max(page.until);
        }
        Ok((!waits).then(|| places(shards)))
    }
}

/// Makes dead letters for events that wait behind others.
fn behind_others(shard: &Shard, page: &DecodedPage, waiting: &[(Queue, usize)]) -> Vec<DeadLetter> {
    let letter = |(queue, place): &(Queue, usize)| {
        let event = &page.events[*place];
        queue.letter(shard, event, dead_letters::BEHIND, event.recorded_at)
    };
    waiting.iter().map(letter).collect()
}

/// Opens transactions while the shard is where it was when this program was admitted, at the same epoch.
struct InlineFence {
    base: Arc<dyn EventStore>,
    shard: Shard,
    at: Checkpoint,
}

#[async_trait]
impl Fence for InlineFence {
    async fn open(&self) -> Result<(Box<dyn Transaction>, Checkpoint), Halt> {
        let mut transaction = self.base.begin().await?;
        let shards = transaction.lock_projection(&self.shard.projection).await?;
        match shards.into_iter().find(|(shard, _)| *shard == self.shard) {
            Some((_, at)) if at == self.at => Ok((transaction, at)),
            _ => {
                transaction.rollback().await?;
                Err(Halt::Lost)
            }
        }
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

/// Returns the position that all shards have reached.
fn behind(shards: &[(Shard, Checkpoint)]) -> Position {
    shards.iter().map(|(_, at)| at.position).min().unwrap_or_default()
}

/// Returns how many events to try after `tried` have failed; `None` if that was one. Halves the number to find an event
/// that is to blame. Divides by 8 what may be too much for a statement, because each try may have waited for a lock.
fn fewer(tried: usize, fault: Fault) -> Option<usize> {
    let parts = if fault == Fault::World { 8 } else { 2 };
    (tried > 1).then_some((tried / parts).max(1))
}

/// Returns the error of the store.
fn world(failed: Failure) -> StoreError {
    match failed.reason.downcast() {
        Ok(error) => *error,
        // The user's code got the error from the database, or from something it calls that is unavailable.
        Err(reason) => StoreError::Unavailable(reason),
    }
}

/// Makes the recorded events of an append.
fn recorded(events: Vec<(StreamId, NewEvent)>, written: &Written) -> Vec<Recorded<Raw>> {
    let mut versions: HashMap<_, _> = written.streams.iter().cloned().collect();
    // Backwards from the last event: `written` has the last version of each stream.
    let events = events.into_iter().rev().zip((written.first.0..=written.last.0).rev());
    let mut recorded: Vec<_> = events
        .map(|((stream, event), position)| {
            let version = versions.get_mut(&stream).map_or_else(Default::default, |version| {
                let this = *version;
                version.0 -= 1;
                this
            });
            event.recorded(stream, version, Position(position), written.recorded_at)
        })
        .collect();
    recorded.reverse();
    recorded
}

/// A transaction whose appends keep rows.
struct InlineTransaction {
    inner: Box<dyn Transaction>,
    kept: Arc<[Arc<Kept>]>,
    /// Whether it may have an append without its rows.
    unfinished: bool,
    /// Positions and epochs without parked keys, to store in [`Kept::free`] after the commit.
    free: Vec<(Arc<Kept>, Option<Places>)>,
}

impl InlineTransaction {
    /// Appends all and updates the rows. Returns `None`, having kept no rows, if the rows lag more than `gap` events:
    /// the caller rolls back. A refused append is an `Err` in its own slot and does not affect the others.
    async fn append_all(
        &mut self,
        appends: Vec<Append>,
        gap: u64,
    ) -> Result<Option<Vec<Result<Written, StoreError>>>, StoreError> {
        let kept = self.kept.clone();
        let mut all = vec![];
        self.unfinished = true;
        for kept in &*kept {
            all.push(kept.lock(&mut *self.inner).await?);
        }
        let (mut results, mut new) = (vec![], vec![]);
        for append in appends {
            let events = append.events().map(|(stream, event)| (stream.clone(), event.clone())).collect();
            let written = match self.inner.append(append).await {
                Err(error) if !error.is_refusal() => return Err(error),
                written => written,
            };
            if let Ok(written) = &written
                && !written.replayed
            {
                new.extend(recorded(events, written));
            }
            results.push(written);
        }
        // Events of a replayed append were recorded before: they are in the rows, or are processed like those of other
        // stores.
        if let (Some(first), Some(last)) = (new.first(), new.last()) {
            let (before, until, id) = (Position(first.position.0 - 1), last.position, Some(last.id));
            if all.iter().any(|shards| before.0.saturating_sub(behind(shards).0) > gap) {
                return Ok(None);
            }
            let page = DecodedPage::new(before, until, id, new);
            self.free.clear();
            for (kept, mut shards) in kept.iter().zip(all) {
                if behind(&shards) < before {
                    while kept.gap(&mut *self.inner, Some(before), BATCH).await? {}
                    shards = kept.lock(&mut *self.inner).await?;
                }
                let free = kept.process(&mut *self.inner, &mut shards, &page, Kept::refused).await?;
                self.free.push((kept.clone(), free));
            }
        }
        self.unfinished = false;
        Ok(Some(results))
    }

    async fn commit(self) -> Result<(), StoreError> {
        if self.unfinished {
            self.inner.rollback().await?;
            return Err(Invalid::unfinished().into());
        }
        self.inner.commit().await?;
        for (kept, free) in self.free {
            *kept.free.lock().unwrap_or_else(PoisonError::into_inner) = free;
        }
        Ok(())
    }
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

#[async_trait]
impl Transaction for InlineTransaction {
    async fn append(&mut self, append: Append) -> Result<Written, StoreError> {
        append.check()?;
        if self.unfinished {
            return Err(Invalid::unfinished().into());
        }
        let results = self.append_all(vec![append], u64::MAX).await?;
        results.and_then(|mut results| results.pop()).unwrap_or_else(|| Err(Invalid::unfinished().into()))
    }

    async fn hold(
        &mut self,
        unchanged: Vec<(StreamId, Version)>,
        condition: Option<Condition>,
    ) -> Result<(), StoreError> {
        // All transactions lock the shards before the log.
        for kept in &*self.kept.clone() {
            kept.lock(&mut *self.inner).await?;
        }
        self.inner.hold(unchanged, condition).await
    }

    async fn holds(&mut self) -> Result<bool, StoreError> {
        self.inner.holds().await
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
        self.inner.rows(rows).await
    }

    async fn write(&mut self, changes: Changes) -> Result<(), StoreError> {
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
        // A caller may roll back to a savepoint, and with it appends and the positions of shards.
        self.free.iter_mut().for_each(|(_, free)| *free = None);
        self.inner.connection()
    }

    fn returned(&mut self) {
        self.inner.returned();
    }

    async fn check(&mut self) -> Result<(), StoreError> {
        self.inner.check().await
    }

    fn blame(&self, error: &(dyn Error + 'static)) -> Option<Blame> {
        self.inner.blame(error)
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Self::commit(*self).await
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.rollback().await
    }
}
