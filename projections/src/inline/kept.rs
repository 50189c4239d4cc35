//! A processor that is kept with each append: whether this program is admitted to it, and what an append does to its rows.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use eventstore_core::{Checkpoint, DeadLetter, EventStore, Page, Position, Read, Shard, StoreError, Transaction};
use eventstore_engine::{
    failure::{Failure, Fault, Halt},
    record::{
        self, ProcessorState, Row, dead_letters,
        queue::Queue,
        reads::{self, Reads},
    },
    run::{
        admission::{Admitted, How, Missed, admit},
        page::{DecodedPage, id_within, unforked},
        parked::Parked,
        processor::{Fence, Outputs, Part, Processor, process},
        refold::{self, Refold, pending},
    },
};
use futures::TryStreamExt;
use tokio::time::sleep;

/// How many events that were recorded by other stores are processed together.
pub(super) const BATCH: usize = 1_000;
/// How often, and after what pause, processing the events that were passed begins again because others moved the
/// shards.
const LOST: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);

/// A processor that is kept with each append.
pub(super) struct Kept {
    pub(super) processor: Arc<dyn Processor>,
    pub(super) name: String,
    /// Positions and epochs at which no key was parked. Parking moves one or raises the other, so equal values mean
    /// that the dead letters need not be read.
    pub(super) free: Mutex<Option<Places>>,
    /// What was read when this program was admitted; `None` before, and once another program has begun the processor
    /// again.
    admitted: Mutex<Option<Seen>>,
}

/// The shards of a processor as they were when this program was admitted to it.
#[derive(Clone, PartialEq)]
pub(super) struct Seen {
    /// The shards and their epochs: a program that reads more events raises the epochs.
    pub(super) epochs: Vec<(Shard, u64)>,
    /// The fingerprint of the events that the processor was processed with.
    pub(super) reads: Option<String>,
    /// The events that newer programs read and this one does not.
    lacks: Reads,
}

pub(super) fn epochs(shards: &[(Shard, Checkpoint)]) -> Vec<(Shard, u64)> {
    shards.iter().map(|(shard, at)| (shard.clone(), at.epoch)).collect()
}

/// The position and the epoch of each shard.
pub(super) type Places = Vec<(Shard, Position, u64)>;

fn places(shards: &[(Shard, Checkpoint)]) -> Places {
    shards.iter().map(|(shard, at)| (shard.clone(), at.position, at.epoch)).collect()
}

impl Kept {
    /// Returns a processor that this program is not admitted to yet.
    pub(super) fn new(processor: Arc<dyn Processor>) -> Self {
        let (name, free, admitted) = (processor.name(), Mutex::default(), Mutex::default());
        Self { processor, name, free, admitted }
    }

    pub(super) fn admitted(&self) -> Option<Seen> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn see(&self, seen: Option<Seen>) {
        *self.admitted.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// Returns the error of an append when the processor cannot go on: an event that is recorded already has failed, or
    /// all of the processor.
    pub(super) fn stopped(&self, failed: Failure) -> StoreError {
        if let Some(newer) = failed.newer() {
            return self.newer(&newer);
        }
        match failed.fault {
            Fault::World => world(failed),
            _ => StoreError::Stopped { projection: self.name.clone(), reason: failed.told() },
        }
    }

    pub(super) fn newer(&self, events: &Reads) -> StoreError {
        StoreError::Newer { projection: self.name.clone(), events: events.to_string() }
    }

    /// Returns the error of an append when the processor cannot process the events that are being appended.
    pub(super) fn refused(&self, failed: Failure) -> StoreError {
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
    pub(super) async fn admit(&self, base: &Arc<dyn EventStore>) -> Result<(), StoreError> {
        let mut lost = 0;
        'anew: loop {
            let mut transaction = base.begin().await?;
            let mut shards = transaction.lock_projection(&self.name).await?;
            let known = record::row(&mut *transaction, &self.name).await?;
            let is_new = known.is_none() || shards.is_empty();
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
            let outputs = &Outputs::default();
            let part = Part { page: &page, places, shard: &range, parked: &parked, only: None, held: None, outputs };
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
    pub(super) async fn lock(&self, transaction: &mut dyn Transaction) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
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
    pub(super) async fn gap(
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
    pub(super) async fn process(
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
            let outputs = &Outputs::default();
            let part = Part { page, places, shard, parked: &parked, only: None, held: None, outputs };
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
    pub(super) base: Arc<dyn EventStore>,
    pub(super) shard: Shard,
    pub(super) at: Checkpoint,
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

/// Returns the position that all shards have reached.
pub(super) fn behind(shards: &[(Shard, Checkpoint)]) -> Position {
    shards.iter().map(|(_, at)| at.position).min().unwrap_or_default()
}

/// Returns how many events to try after `tried` have failed; `None` if that was one. Halves the number to find an event
/// that is to blame. Divides by 8 what may be too much for a statement, because each try may have waited for a lock.
pub(super) fn fewer(tried: usize, fault: Fault) -> Option<usize> {
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
