//! Runs one shard of a processor: has it process the log, each batch and its checkpoint in one transaction.
//!
//! ```text
//!            claimed by a node (node.rs)
//!                     |
//!                     v
//!        +-------  begin  <--------------- an error of the world, after a pause
//!        |  checkpoint, parked keys,       (20 ms, half the batch; at one event, doubled up to 5 s)
//!        |  where it is to stop                        ^
//!        v                                             |
//!   look back     events that were passed before this program read them
//!        |
//!        v
//!   +-> step ------------------------------------------+
//!   |    |- a parked key is due ....... retry it, in a transaction
//!   |    |- stopped at a position ..... wait until the shards have changed (holds.rs)
//!   |    |- behind the node's memory .. catch up: a reading of its own (catch_up.rs)
//!   |    |- at the end of the log ..... wait for the tail (tail.rs)
//!   |    '- a page ................... process it, batch by batch:
//!   |         one statement   rows and checkpoint, if nothing waits and nothing failed
//!   |         a transaction   lock the shard, check epoch and owner, process, advance, commit
//!   |         on failure      halve around the event; retry it three times; park its key
//!   '---------'
//!        |
//!        v
//!      ended: asked to stop | lost to another node (the epoch is another) | failed (its code must be mended)
//! ```
//!
//! A batch that failed is tried again in a transaction only: that reports the cause, and each try counts once. The lock
//! order is: the shard, then the append lock.

use std::{
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use eventstore_core::{
    Checkpoint, Position, Query, Read, Shard, Step, Store, StoreError, Timestamp, Transaction, engine::Brief,
};
use futures::{FutureExt, TryStreamExt};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    failure::{Failure, Fault, Halt},
    record::{self, dead_letters, holds, queue::Queue, reads},
    run::{
        admission::Missed,
        catch_up::{BATCH, CatchUp, LARGE_BATCH, Limits, pace},
        metrics,
        options::Options,
        page::{DecodedPage, id_at, unforked},
        parked::Parked,
        processor::{Fence, Held, Outputs, Part, Processor, Remembered, Tick, process},
        refold::{self, Refold},
        tail::{After, Tail},
    },
    status::{State, Status},
};

/// The pause after an error of the world. While it was a batch of one event that failed, each further pause is twice as
/// long; after a larger batch it is the first pause again.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a shard that is held at a position waits before it looks again.
const HELD_PAUSE: Duration = Duration::from_millis(20);
/// The pauses before the retries of an event that failed. After the last one its key is parked.
const TRIES: [Duration; 3] = [Duration::from_millis(10), Duration::from_millis(40), Duration::from_millis(160)];

/// How long a shard that was asked to stop waits for its row, to store that events were handed over.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// One shard that this node runs.
pub(crate) struct ShardRunner {
    pub store: Store,
    pub processor: Arc<dyn Processor>,
    pub(crate) tail: Arc<Tail>,
    pub(crate) options: Options,
    pub shard: Shard,
    /// This node, and the epoch at which it has the shard.
    pub node: Uuid,
    pub epoch: u64,
    pub(crate) report: watch::Sender<Status>,
    pub(crate) stop: watch::Receiver<bool>,
    /// Wakes the node for a turn.
    pub wake_node: Arc<Notify>,
    /// How many events all shards of the processor may process in a second.
    pub(crate) pace: watch::Receiver<Option<u64>>,
    /// How many events are processed together at most, after a larger batch failed.
    pub(crate) most: Option<usize>,
}

/// Why a shard is no longer run.
pub(crate) enum Ended {
    /// The node asked it to stop.
    Stopped,
    /// Another node has the shard, or there is no such shard any more.
    Lost,
    /// The processor cannot go on.
    Failed(Failure),
}

/// How a batch is committed.
#[derive(Clone, Copy, PartialEq)]
enum Road {
    /// The rows and the checkpoint in one statement, where rows are all there is to write; else in a transaction.
    OneStatement,
    /// In a transaction. Something of the page has failed, so one statement first would make each try two.
    Transaction,
}

/// Which events of a range that failed are tried next.
#[derive(Debug, PartialEq)]
enum Narrowed {
    /// The events before a place.
    UpTo(usize),
    /// The range was one event, and that event is to blame.
    Alone,
    /// The range was one event or none, and the error names no event.
    Unknown,
}

impl Narrowed {
    /// If the place of the event to blame is known: the events before it, then that event alone. Else the first half.
    fn of(tried: std::ops::Range<usize>, bad: Option<usize>) -> Self {
        match bad {
            Some(bad) if bad > tried.start => Self::UpTo(bad),
            Some(_) if tried.len() > 1 => Self::UpTo(tried.start + 1),
            Some(_) => Self::Alone,
            None if tried.len() > 1 => Self::UpTo(tried.start + tried.len() / 2),
            None => Self::Unknown,
        }
    }
}

/// The position of a shard in the log, and what this node knows of the shard there.
pub struct LogCursor {
    position: Position,
    /// The event at the position.
    event: Option<Uuid>,
    /// How often the tail had seen the log lose its end when this cursor was made.
    lost: u64,
    /// The position at which the shard is held until the shards have changed.
    until: Option<Position>,
    pub parked: Parked,
    /// How the current page is committed.
    road: Road,
    /// The shard's own reading of the log, while it is behind the pages in memory; else it follows the tail.
    catch_up: Option<CatchUp>,
    /// Events that the shard passed and must process before it goes on: names, slots, and the position after which.
    missed: Vec<(Vec<String>, Shard, Position)>,
    /// Set while the cursor stands among such passed events.
    back: Option<Back>,
    /// How many events the last batch had, or was to have.
    tried: usize,
    ticks: Ticks,
}

/// When a processor is asked to do what is due by the clock.
#[derive(Default)]
struct Ticks {
    /// The end of the log when the cursor was made. The processor is asked only from there on.
    from: Position,
    /// When it is asked next, if it ever is.
    at: Option<Instant>,
    /// Whether it was asked last, before any page: events and what is due by the clock take turns.
    last: bool,
    /// Whether it has done all that was due since the cursor was made.
    done: bool,
}

/// Passed events that are being processed, and where the shard is meanwhile.
#[derive(Clone)]
struct Back {
    names: Vec<String>,
    slots: Shard,
    /// The checkpoint of the shard.
    at: (Position, Option<Uuid>),
}

impl LogCursor {
    /// Returns whether another batch follows one that ends at a position. Its commit notices if this one was lost, so
    /// this one may skip the flush; the last batch of a catch-up always flushes.
    fn is_followed(&self, to: Position) -> bool {
        self.catch_up.as_ref().is_some_and(|catch_up| to < catch_up.head)
    }

    /// Has the processor asked what is due within a time at the latest.
    pub(super) fn wake_in(&mut self, time: Option<Duration>) {
        let at = time.and_then(|time| Instant::now().checked_add(time));
        self.ticks.at = [self.ticks.at, at].into_iter().flatten().min();
    }
}

/// Tells a processor that its shard is no longer run, also where the task is aborted.
struct Released {
    processor: Arc<dyn Processor>,
    shard: Shard,
    epoch: u64,
}

impl Drop for Released {
    fn drop(&mut self) {
        let Self { processor, shard, epoch } = self;
        if catch_unwind(AssertUnwindSafe(|| processor.released(shard, *epoch))).is_err() {
            tracing::error!(projection = %shard, "it panicked when a shard was released");
        }
    }
}

impl ShardRunner {
    pub async fn run(mut self) -> Ended {
        let _held = Released { processor: self.processor.clone(), shard: self.shard.clone(), epoch: self.epoch };
        self.run_on().await
    }

    async fn run_on(&mut self) -> Ended {
        let mut cursor = None;
        let mut pause = FIRST_PAUSE;
        loop {
            if *self.stop.borrow() {
                return Ended::Stopped;
            }
            let step = AssertUnwindSafe(self.step(&mut cursor)).catch_unwind().await;
            match step.unwrap_or_else(|panic| Err(Halt::Failed(Failure::panicked(&*panic).for_certain()))) {
                Ok(()) => pause = FIRST_PAUSE,
                Err(Halt::Lost) => return Ended::Lost,
                Err(Halt::Failed(failed)) if failed.fault == Fault::Program => return Ended::Failed(failed),
                Err(Halt::Failed(failed)) => {
                    self.report_failure(failed);
                    let tried = cursor.map_or(1, |cursor| cursor.tried);
                    cursor = None;
                    self.unless_stopped(sleep(pause)).await;
                    // Halve the batch: fewer events may fit into what the server allows a statement. At one event, only
                    // time helps.
                    self.most = Some(self.most.unwrap_or(usize::MAX).min(tried / 2).max(1));
                    pause = if tried > 1 { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                }
            }
        }
    }

    /// Reports the error that holds the shard up.
    fn report_failure(&self, failed: Failure) {
        let (shard, event) = (self.shard.to_string(), failed.event.as_ref().map(tracing::field::display));
        tracing::warn!(projection = shard, event, error = %Brief(&*failed.reason), "projection failed");
        metrics::failed(&self.shard.projection);
        let failed: Arc<dyn std::error::Error + Send + Sync> = failed.told().into();
        self.store.mark_running(&self.shard.projection, Some(failed.clone()), false);
        self.report.send_modify(|status| status.error = Some(failed));
    }

    /// Reports the shard's position.
    fn report_progress(&self, cursor: &LogCursor) {
        if self.report.borrow().error.is_some() {
            self.store.mark_running(&self.shard.projection, None, false);
        }
        self.report.send_modify(|status| {
            status.shard_advanced(&self.shard, cursor.position);
            status.head = self.tail.end().max(status.position);
            status.error = None;
            if status.state == State::Booting && status.position >= status.target {
                status.state = State::Active;
                self.wake_node.notify_one();
            }
        });
    }

    /// Waits for a future, or until asked to stop.
    async fn unless_stopped(&mut self, something: impl Future<Output = ()>) {
        tokio::select! {
            // `Err`: the sender is gone, so nothing can ask to stop.
            Ok(_) = self.stop.wait_for(|stop| *stop) => {}
            () = something => {}
        }
    }

    async fn step(&mut self, cursor: &mut Option<LogCursor>) -> Result<(), Halt> {
        if cursor.as_ref().is_some_and(|cursor| cursor.lost != self.tail.lost()) {
            *cursor = None;
        }
        let cursor = match cursor {
            Some(cursor) => cursor,
            none => none.insert(self.begin().await?),
        };
        if !cursor.missed.is_empty() {
            return self.look_back(cursor).await;
        }
        let now = self.store.as_ref().now();
        if let Some((queue, at)) = cursor.parked.next()
            && at <= now
        {
            let queue = queue.clone();
            return self.retry(cursor, &queue).await;
        }
        if cursor.until.is_some_and(|until| until <= cursor.position) {
            return self.wait_for_reshard().await;
        }
        let due = cursor.position >= cursor.ticks.from && cursor.ticks.at.is_some_and(|at| at <= Instant::now());
        if !std::mem::take(&mut cursor.ticks.last) && due {
            cursor.ticks.last = true;
            return self.tick(cursor).await;
        }
        let page = match self.tail.after(cursor.position) {
            After::Here(page) => {
                cursor.catch_up = None;
                page
            }
            After::NotYet => {
                cursor.catch_up = None;
                self.report_progress(cursor);
                let due = cursor.parked.next().map(|(_, at)| until(now, at));
                let tail = self.tail.clone();
                let mut failed = Ok(());
                let (position, lost, tick_at) = (cursor.position, cursor.lost, cursor.ticks.at);
                let (processor, shard) = (self.processor.clone(), self.shard.clone());
                let mut arrived = false;
                self.unless_stopped(async {
                    tokio::select! {
                        there = tail.wait(position, lost) => failed = there,
                        () = sleep(due.unwrap_or_default()), if due.is_some() => {}
                        () = sleep_until(tick_at.unwrap_or_else(Instant::now)), if tick_at.is_some() => {}
                        () = processor.arrived(&shard), if tick_at.is_some() => arrived = true,
                    }
                })
                .await;
                if arrived {
                    cursor.wake_in(Some(Duration::ZERO));
                }
                return Ok(failed?);
            }
            After::Gone => match self.catch_up(cursor).await? {
                Some(page) => Arc::new(page),
                None => return Ok(()),
            },
        };
        let page = match cursor.until {
            Some(until) if until < page.until => Arc::new(page.up_to(self.store.as_ref(), until).await?),
            _ => page,
        };
        self.through(cursor, &page).await
    }

    /// Reads where the shard is. [`StoreError::Forked`] if the log does not have the event of the checkpoint any more.
    async fn begin(&self) -> Result<LogCursor, Halt> {
        let lost = self.tail.lost();
        let store = self.store.as_ref();
        let shards = store.shards(Some(&self.shard.projection)).await?;
        let at = shards.into_iter().find(|(shard, _)| *shard == self.shard).ok_or(Halt::Lost)?.1;
        if let Some(event) = at.event
            && id_at(store, at.position).await? != Some(event)
        {
            return Err(StoreError::Forked { position: at.position, event: Some(event) }.into());
        }
        let parked = Parked::load(store, &self.shard).await?;
        self.report.send_modify(|status| status.parked = parked.len());
        // Read after the epoch. A hold raises the epochs in its own transaction: a shard that reads too early to see
        // the hold has an old epoch, and can write nothing.
        let until = holds::until(store, &self.shard.projection).await?;
        let known = record::known(store, &self.shard.projection).await?;
        let missed = known.map(|known| Missed::of(&known)).transpose()?.unwrap_or_default();
        let missed = refold::pending(&missed, &self.shard);
        let Checkpoint { position, event, .. } = at;
        let (road, catch_up, back, tried) = (Road::OneStatement, None, None, 1);
        let mut ticks = Ticks::default();
        if self.processor.ticks() {
            let head = Read { query: Query::all(), limit: Some(0), ..Read::default() };
            (ticks.from, ticks.at) = (store.read(head).await?.head, Some(Instant::now()));
        }
        Ok(LogCursor { position, event, until, lost, parked, road, catch_up, missed, back, tried, ticks })
    }

    /// Has the processor do what is due by the clock.
    async fn tick(&self, cursor: &mut LogCursor) -> Result<(), Halt> {
        let (shard, epoch, parked) = (&self.shard, self.epoch, &cursor.parked);
        let tick = Tick { shard, epoch, parked, fence: self, again: !cursor.ticks.done };
        let pause = self.processor.tick(&tick).await?;
        cursor.ticks.done |= !pause.is_zero();
        cursor.ticks.at = Instant::now().checked_add(pause);
        Ok(())
    }

    /// Processes events that were passed before this program read them. Runs before anything else.
    async fn look_back(&mut self, cursor: &mut LogCursor) -> Result<(), Halt> {
        let Some((names, range, after)) = cursor.missed.pop() else { return Ok(()) };
        let store = self.store.clone();
        if let Some(table) = self.processor.table() {
            let (processor, until) = (self.processor.clone(), cursor.position);
            let (store, parks) = (store.as_ref(), Some(self.options));
            tracing::info!(projection = %range, events = names.join(", "), "rows are made anew that lack events");
            let refold = Refold { store, processor: &*processor, table, fence: self, names: &names, until, parks };
            refold.run(range).await?;
            return self.reload_parked(cursor).await;
        }
        let limit = self.options.batch.unwrap_or(BATCH).min(self.most.unwrap_or(usize::MAX));
        let (query, until) = (reads::named(&names), Some(cursor.position));
        let read = Read { query, after, until, limit: Some(limit), ..Read::default() };
        let events: Vec<_> = store.as_ref().read(read).await?.events.try_collect().await?;
        let Some(last) = events.last() else {
            let (mut transaction, _) = self.open(true).await?;
            refold::progress(&mut *transaction, &range, &names, None).await?;
            return Ok(transaction.commit().await?);
        };
        let page = DecodedPage::new(after, last.position, Some(last.id), events);
        let back = Back { names: names.clone(), slots: range.clone(), at: (cursor.position, cursor.event) };
        let (parked, lost, back) = (std::mem::take(&mut cursor.parked), cursor.lost, Some(back));
        let (event, catch_up, missed, tried) = (None, None, vec![], cursor.tried);
        let (road, position, until) = (Road::Transaction, after, None);
        let ticks = Ticks::default();
        let mut behind = LogCursor { position, event, until, lost, parked, road, catch_up, missed, back, tried, ticks };
        let done = self.through(&mut behind, &page).await;
        (cursor.parked, cursor.tried) = (behind.parked, behind.tried);
        cursor.missed.push((names, range, behind.position));
        done
    }

    /// Waits a moment while the shard is held. [`Halt::Lost`] once the shards or the epoch have changed.
    async fn wait_for_reshard(&mut self) -> Result<(), Halt> {
        self.unless_stopped(sleep(HELD_PAUSE)).await;
        let shards = self.store.as_ref().shards(Some(&self.shard.projection)).await?;
        let same = shards.iter().any(|(shard, at)| *shard == self.shard && at.epoch == self.epoch);
        same.then_some(()).ok_or(Halt::Lost)
    }

    /// Returns the next page of the shard's own reading of the log; `None` at the end of that reading.
    async fn catch_up(&self, cursor: &mut LogCursor) -> Result<Option<DecodedPage>, StoreError> {
        cursor.tried = self.most.map_or(BATCH, |most| most.min(BATCH));
        let catch_up = match &mut cursor.catch_up {
            Some(catch_up) => catch_up,
            none => {
                let (store, processor) = (self.store.clone(), self.processor.clone());
                let (report, pace) = (self.report.clone(), self.pace.clone());
                let limits = Limits { most: self.most, batch: self.options.batch };
                let from = cursor.position;
                none.insert(CatchUp::begin(store, processor, report, pace, limits, from).await?)
            }
        };
        let page = catch_up.next().await?;
        if page.is_none() {
            cursor.catch_up = None;
        }
        Ok(page)
    }

    /// Processes a page: all of it at once if that works, else around the events that fail.
    async fn through(&mut self, cursor: &mut LogCursor, page: &DecodedPage) -> Result<(), Halt> {
        let (mut end, mut tries) = (page.events.len(), 0);
        cursor.road = Road::OneStatement;
        while (page.after..page.until).contains(&cursor.position) {
            let first = page.place_after(cursor.position);
            let pace = self.pace();
            // At most a second's worth of events.
            end = pace.map_or(end, |pace| end.min(first + pace as usize)).max(first);
            let most = [self.most, self.options.batch].into_iter().flatten().min();
            end = most.map_or(end, |most| end.min(first.saturating_add(most)));
            cursor.tried = end - first;
            let all = end >= page.events.len();
            let to = match end.checked_sub(1).map(|last| &page.events[last]) {
                Some(last) if !all => (last.position, Some(last.id)),
                _ => (page.until, page.last),
            };
            match self.commit(cursor, page, first..end, to).await {
                Ok(()) => {
                    if let Some(pace) = pace {
                        let pause = Duration::from_secs_f64((end - first) as f64 / pace);
                        self.unless_stopped(sleep(pause)).await;
                    }
                    (end, tries) = (page.events.len(), 0);
                    // Grow by a quarter each time, so that a batch that was too large is tried again, but not at once.
                    self.most = self.most.map(|most| most + most / 4 + 1).filter(|most| *most < LARGE_BATCH);
                }
                Err(Halt::Failed(failed)) if matches!(failed.fault, Fault::Event | Fault::Later | Fault::Row) => {
                    cursor.road = Road::Transaction;
                    let bad = failed.position().map(|position| page.place_after(position).saturating_sub(1));
                    match Narrowed::of(first..end, bad) {
                        Narrowed::UpTo(less) => end = less,
                        Narrowed::Alone => {
                            let Some(queue) = failed.queue.clone() else { return Err(failed.for_certain().into()) };
                            if failed.fault == Fault::Event && tries < TRIES.len() {
                                self.report_failure(failed);
                                self.unless_stopped(sleep(TRIES[tries])).await;
                                tries += 1;
                            } else {
                                self.park(cursor, queue, failed)?;
                            }
                        }
                        Narrowed::Unknown => return Err(failed.for_certain().into()),
                    }
                }
                Err(halt) => return Err(halt),
            }
            if *self.stop.borrow() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns how many events this shard may process in a second.
    fn pace(&self) -> Option<f64> {
        pace(&self.report, &self.pace)
    }

    /// Opens a transaction that has locked the shard, or the whole processor (`whole`), and returns the shard's
    /// checkpoint. [`Halt::Lost`] if the shard is another node's by now.
    pub(super) async fn open(&self, whole: bool) -> Result<(Box<dyn Transaction>, Checkpoint), Halt> {
        let mut transaction = self.store.as_ref().begin().await?;
        let mut stop = self.stop.clone();
        // The node that holds the lock may be frozen. Once this shard is to stop, it waits no longer than `GRACE` for
        // the lock.
        let late = async {
            if stop.wait_for(|stop| *stop).await.is_err() {
                pending::<()>().await;
            }
            sleep(GRACE).await;
        };
        let lock = async {
            if !whole {
                return transaction.lock(&self.shard).await;
            }
            let shards = transaction.lock_projection(&self.shard.projection).await?;
            Ok(shards.into_iter().find(|(shard, _)| *shard == self.shard).map(|(_, at)| at))
        };
        let locked = tokio::select! {
            biased;
            locked = lock => locked?,
            () = late => return Err(Halt::Lost),
        };
        match locked {
            Some(at) if (at.epoch, at.owner) == (self.epoch, Some(self.node)) => Ok((transaction, at)),
            _ => {
                transaction.rollback().await?;
                metrics::fenced(&self.shard);
                tracing::info!(projection = %self.shard, epoch = self.epoch, "another node has taken it over");
                Err(Halt::Lost)
            }
        }
    }

    /// Processes events and advances the checkpoint in one commit, or changes nothing.
    async fn commit(
        &self,
        cursor: &mut LogCursor,
        page: &DecodedPage,
        places: std::ops::Range<usize>,
        to: (Position, Option<Uuid>),
    ) -> Result<(), Halt> {
        let (start, events) = (Instant::now(), places.len());
        let (projection, shard) = (&*self.shard.projection, &self.shard);
        let span = tracing::debug_span!("batch", projection, %shard, events);
        self.commit_batch(cursor, page, places, to).instrument(span).await?;
        if cursor.position == to.0 && cursor.back.is_none() {
            metrics::batch(&self.shard, events, start.elapsed());
            let now = self.store.as_ref().now();
            self.report.send_modify(|status| {
                status.count_events(events);
                if status.lag() == 0 {
                    status.set_next(None, now);
                }
                metrics::progress(&status.name, status.position, status.lag(), status.parked);
            });
        }
        Ok(())
    }

    async fn commit_batch(
        &self,
        cursor: &mut LogCursor,
        page: &DecodedPage,
        places: std::ops::Range<usize>,
        to: (Position, Option<Uuid>),
    ) -> Result<(), Halt> {
        let outputs = Outputs::default();
        if self.step_over(cursor, page, places.clone(), to, &outputs).await {
            self.advanced(cursor, to, &outputs);
            return Ok(());
        }
        let (back, held) = (cursor.back.clone(), self.held(cursor));
        let shard = back.as_ref().map_or(&self.shard, |back| &back.slots);
        let (parked, held, outputs) = (&cursor.parked, Some(&held), &outputs);
        let part = Part { page, places, shard, parked, only: None, held, outputs };
        self.deliver(&part).await?;
        let (mut transaction, at) = self.open(back.is_some()).await?;
        if back.is_none() && at.position != cursor.position {
            // Something else moved the checkpoint: an append that keeps the rows inline, an earlier commit that had
            // succeeded after all, or a crash that lost one. Such a commit may also have parked keys.
            transaction.rollback().await?;
            cursor.catch_up = cursor.catch_up.take().filter(|_| at.position > cursor.position);
            cursor.catch_up.iter_mut().for_each(|catch_up| catch_up.remembered = Remembered::default());
            (cursor.position, cursor.event) = (at.position, at.event);
            return self.reload_parked(cursor).await;
        }
        if let Err(forked) = unforked(&mut *transaction, &at).await {
            transaction.rollback().await?;
            return Err(forked.into());
        }
        // Forget the remembered rows until this transaction is committed.
        let mut remembered = cursor.catch_up.as_mut().map(|catch_up| std::mem::take(&mut catch_up.remembered));
        let processed = self.process(&mut transaction, &part, remembered.as_mut()).await;
        let letters = match processed.and_then(|waiting| self.letters(&cursor.parked, page, &waiting)) {
            Ok(letters) => letters,
            Err(failed) => {
                // If the rollback fails, the connection is broken, and the event is not to blame.
                transaction.rollback().await?;
                return Err(failed.into());
            }
        };
        if !letters.is_empty() {
            transaction.write(dead_letters::changes(&letters, &[])?).await?;
        }
        let moved = match &back {
            Some(Back { names, slots, .. }) => {
                refold::progress(&mut *transaction, slots, names, Some(to.0)).await?;
                Ok(())
            }
            None => transaction.advance(&self.shard, to.0, to.1).await,
        };
        if let Err(error) = moved {
            transaction.rollback().await?;
            return Err(match error {
                // The log has lost its end since the page was read, and the checkpoint with it.
                StoreError::Forked { .. } => {
                    self.tail.forget();
                    let reason = format!("what was read up to position {} is not in the log any more", to.0);
                    StoreError::Damaged(reason.into()).into()
                }
                error => error.into(),
            });
        }
        if letters.is_empty() && cursor.is_followed(to.0) {
            // A batch that writes dead letters flushes: this process remembers that they are written.
            transaction.lazy();
        }
        transaction.commit().await?;
        if let (Some(catch_up), Some(remembered)) = (&mut cursor.catch_up, remembered) {
            catch_up.remembered = remembered;
        }
        for letter in letters {
            if let Some(waiting) = cursor.parked.get_mut(&Queue::of(&letter)) {
                waiting.first = false;
            }
        }
        self.advanced(cursor, to, outputs);
        Ok(())
    }

    /// Does the same in one statement, if nothing has failed and rows are all there is to write. Returns `false` if it
    /// could not, for whatever reason: a transaction then does it, or reports why not.
    async fn step_over(
        &self,
        cursor: &mut LogCursor,
        page: &DecodedPage,
        places: std::ops::Range<usize>,
        to: (Position, Option<Uuid>),
        outputs: &Outputs,
    ) -> bool {
        if cursor.road == Road::Transaction || cursor.back.is_some() || !cursor.parked.is_empty() {
            return false;
        }
        let mut remembered = cursor.catch_up.as_mut().map(|catch_up| std::mem::take(&mut catch_up.remembered));
        let (shard, parked, held) = (&self.shard, &cursor.parked, self.held(cursor));
        let part = Part { page, places, shard, parked, only: None, held: Some(&held), outputs };
        let folded = self.processor.fold(self.store.as_ref(), &part, remembered.as_mut());
        let Ok(Ok(Some(changes))) = AssertUnwindSafe(folded).catch_unwind().await else { return false };
        let Held { shard, at: from } = held;
        let step = Step { shard, from, to, changes, lazy: cursor.is_followed(to.0) };
        let done = matches!(self.store.as_ref().step(step).await, Ok(true));
        if let (true, Some(catch_up), Some(remembered)) = (done, &mut cursor.catch_up, remembered) {
            catch_up.remembered = remembered;
        }
        done
    }

    /// Returns the shard, and the checkpoint that it has as long as this node holds it and the cursor is right.
    pub(super) fn held(&self, cursor: &LogCursor) -> Held {
        let (position, event) = cursor.back.as_ref().map_or((cursor.position, cursor.event), |back| back.at);
        let at = Checkpoint { position, event, epoch: self.epoch, owner: Some(self.node) };
        Held { shard: self.shard.clone(), at }
    }

    /// Moves the cursor after a commit, and reports it.
    fn advanced(&self, cursor: &mut LogCursor, (position, event): (Position, Option<Uuid>), outputs: &Outputs) {
        (cursor.position, cursor.event) = (position, event);
        cursor.wake_in(outputs.due());
        if cursor.back.is_none() {
            self.report_progress(cursor);
        }
        self.report.send_if_modified(|status| {
            std::mem::replace(&mut status.parked, cursor.parked.len()) != cursor.parked.len()
        });
    }

    pub(super) async fn process(
        &self,
        transaction: &mut Box<dyn Transaction>,
        part: &Part<'_>,
        remembered: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        let processed = process(&*self.processor, &mut **transaction, part, remembered).await;
        processed.map_err(|failed| self.by_policy(part, failed))
    }

    pub(super) async fn deliver(&self, part: &Part<'_>) -> Result<(), Failure> {
        let delivered = AssertUnwindSafe(self.processor.deliver(self.store.as_ref(), part)).catch_unwind().await;
        let delivered = delivered.unwrap_or_else(|panic| Err(Failure::panicked(&*panic)));
        delivered.map_err(|failed| self.by_policy(part, failed))
    }

    /// An event that cannot be read stops the processor, or is parked at once. If it was parked already and is tried
    /// again, it stays parked, and the node does not retry it by itself.
    fn by_policy(&self, part: &Part<'_>, failed: Failure) -> Failure {
        let parks = failed.queue.is_some() && (self.options.park_unreadable || part.only.is_some());
        match failed.fault {
            Fault::Unreadable if parks => Failure { fault: Fault::Row, ..failed },
            Fault::Unreadable => failed.for_certain(),
            _ => failed,
        }
    }
}

#[async_trait]
impl Fence for ShardRunner {
    async fn open(&self) -> Result<(Box<dyn Transaction>, Checkpoint), Halt> {
        self.open(true).await
    }
}

fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(at.as_micros().saturating_sub(now.as_micros())).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Narrows until one event is left to blame; returns the ranges that were tried.
    fn ranges(mut first: usize, events: usize, bad: usize, named: bool) -> Vec<(usize, usize)> {
        let (mut end, mut tried) = (events, vec![]);
        loop {
            tried.push((first, end));
            if !(first..end).contains(&bad) {
                // The events before it were processed.
                (first, end) = (end, events);
                continue;
            }
            match Narrowed::of(first..end, named.then_some(bad)) {
                Narrowed::UpTo(less) => end = less,
                Narrowed::Alone | Narrowed::Unknown => return tried,
            }
        }
    }

    #[test]
    fn p3_what_is_before_an_event_that_fails_is_processed_and_the_event_is_tried_alone() {
        assert_eq!(ranges(0, 10, 7, true), [(0, 10), (0, 7), (7, 10), (7, 8)]);
        assert_eq!(ranges(3, 10, 3, true), [(3, 10), (3, 4)]);
        assert_eq!(ranges(9, 10, 9, true), [(9, 10)]);
    }

    #[test]
    fn p3_an_event_that_no_error_names_is_found_by_halves() {
        for bad in 0..1_000 {
            let tried = ranges(0, 1_000, bad, false);
            assert_eq!(tried.last(), Some(&(bad, bad + 1)));
            assert!(tried.len() < 70, "{}", tried.len());
        }
        assert_eq!(Narrowed::of(4..5, None), Narrowed::Unknown);
        assert_eq!(Narrowed::of(4..4, None), Narrowed::Unknown);
    }
}
