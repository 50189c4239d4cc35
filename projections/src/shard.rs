//! Runs one shard of a projection: processes what the log has, a batch and its checkpoint in one transaction.

use std::{future::pending, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use eventstore_core::{
    __private::{Brief, LETTERS, Sweep, swept},
    Checkpoint, DeadLetter, Events, Position, Raw, Read, Recorded, Rows, Shard, Step, Store, StoreError, Timestamp,
    Transaction,
};
use futures::{FutureExt, TryStreamExt, stream::BoxStream};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::yield_now,
    time::{Instant, sleep},
};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    admission::Missed,
    control,
    failed::{Blame, Failed, Halt},
    follower::{Follower, Part, Remembered},
    holds,
    letters::{self, Parked, Waiting, retry_at},
    measure,
    options::Options,
    queue::Queue,
    reads,
    refold::{self, Fence, Refold},
    status::{State, Status},
    stretch::{Stretch, id_at, unforked},
    tail::{After, Tail},
};

/// How long to wait after a first error of the world; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a shard that is held waits before it looks again.
const HELD_PAUSE: Duration = Duration::from_millis(20);
/// The pauses after which an event that failed is tried again before its key is parked.
const TRIES: [Duration; 3] = [Duration::from_millis(10), Duration::from_millis(40), Duration::from_millis(160)];

/// How many events are processed together, of those that are read for all and when there is much to catch up with.
const BATCH: usize = 1_000;
const LARGE_BATCH: usize = 10_000;
/// How large what is read together may be.
const LARGE_BYTES: usize = 8 << 20;
/// How many events are decoded before others have their turn.
const DECODED: usize = 250;

impl Default for Options {
    fn default() -> Self {
        let (batch, start, shards, max_parked) = (None, None, 1, 100);
        Self { batch, shards, max_parked, park_unreadable: false, retry_at_start: false, by_hand: false, start }
    }
}

/// How long one that is to stop waits for its shard, to write down what it has handed over.
const GRACE: Duration = Duration::from_secs(1);

/// One shard that this node runs.
pub(crate) struct Work {
    pub(crate) store: Store,
    pub(crate) follower: Arc<dyn Follower>,
    pub(crate) tail: Arc<Tail>,
    pub(crate) options: Options,
    pub(crate) shard: Shard,
    /// Which node this is, and since which epoch it has the shard.
    pub(crate) node: Uuid,
    pub(crate) epoch: u64,
    pub(crate) report: watch::Sender<Status>,
    pub(crate) stop: watch::Receiver<bool>,
    /// Has the node look at everything.
    pub(crate) poke: Arc<Notify>,
    /// How many events all of the projection may process in a second.
    pub(crate) pace: watch::Receiver<Option<u64>>,
    /// How many events are processed together at most, since more of them have failed.
    pub(crate) most: Option<usize>,
}

/// Why a shard is run no more.
pub(crate) enum Ended {
    /// It was asked to.
    Stopped,
    /// Another node has it, or there is no such shard any more.
    Lost,
    /// It cannot go on.
    Failed(Failed),
}

/// What a shard knows while it runs.
struct Place {
    position: Position,
    /// The event there.
    event: Option<Uuid>,
    /// How often the log had lost its end when it began.
    lost: u64,
    /// Where it stops, until shards have changed.
    until: Option<Position>,
    parked: Parked,
    /// Whether something of what is processed now has failed: it is tried in a transaction only, else each try would be two.
    failed: bool,
    /// What is read of the log, while it is behind what the node has in memory.
    own: Option<Own>,
    /// Events it has passed and is to process before it goes on: names, slots, and after which position.
    missed: Vec<(Vec<String>, Shard, Position)>,
    /// Whether it is those events that it stands among now.
    back: Option<(Vec<String>, Shard)>,
    /// How many events were to be processed last.
    tried: usize,
}

impl Place {
    /// Whether another commit comes at once behind one that ends at a position: it finds out if that was lost, so that need
    /// not wait for the disk. The last one waits for all.
    fn is_followed(&self, to: Position) -> bool {
        self.own.as_ref().is_some_and(|own| to < own.head)
    }
}

/// A reading of the log, ahead of what is processed.
struct Own {
    head: Position,
    stretches: mpsc::Receiver<Result<Stretch, StoreError>>,
    /// What was written last. At the end of the log rows are read each time: who changes them by hand sees them taken as
    /// they are.
    remembered: Remembered,
}

/// Reads and decodes for one shard.
struct Reading {
    store: Store,
    follower: Arc<dyn Follower>,
    report: watch::Sender<Status>,
    pace: watch::Receiver<Option<u64>>,
    most: usize,
    head: Position,
    events: BoxStream<'static, Result<Recorded<Raw>, StoreError>>,
}

impl Reading {
    /// The next stretch, and whether there is more.
    async fn next(&mut self, after: Position) -> Result<(Stretch, bool), StoreError> {
        // A second's worth at most.
        let size = pace(&self.report, &self.pace).map_or(self.most, |pace| self.most.min(pace as usize));
        let (mut batch, mut bytes) = (Vec::with_capacity(size.min(BATCH)), 0);
        while batch.len() < size
            && bytes < LARGE_BYTES
            && let Some(event) = self.events.try_next().await?
        {
            bytes += event.data.body.len();
            batch.push(event);
        }
        let full = batch.len() == size || bytes >= LARGE_BYTES;
        let stretch = Stretch::read(self.store.as_ref(), after, self.head, full, batch).await?;
        let end = stretch.events.len();
        for first in (0..end).step_by(DECODED) {
            self.follower.decode(&stretch, first..end.min(first + DECODED));
            yield_now().await;
        }
        Ok((stretch, full))
    }
}

impl Work {
    pub(crate) async fn run(mut self) -> Ended {
        let mut place = None;
        let mut pause = FIRST_PAUSE;
        loop {
            if *self.stop.borrow() {
                return Ended::Stopped;
            }
            let step = AssertUnwindSafe(self.step(&mut place)).catch_unwind().await;
            match step.unwrap_or_else(|panic| Err(Halt::Failed(Failed::panicked(&*panic)))) {
                Ok(()) => pause = FIRST_PAUSE,
                Err(Halt::Lost) => return Ended::Lost,
                Err(Halt::Failed(failed)) if failed.blame == Blame::Program => return Ended::Failed(failed),
                Err(Halt::Failed(failed)) => {
                    self.tell(failed);
                    let tried = place.map_or(1, |place| place.tried);
                    place = None;
                    self.unless_stopped(sleep(pause)).await;
                    // Fewer may fit into what the server allows a statement; once it is one, only time helps.
                    self.most = Some(self.most.unwrap_or(usize::MAX).min(tried / 2).max(1));
                    pause = if tried > 1 { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                }
            }
        }
    }

    /// Tells what holds it up.
    fn tell(&self, failed: Failed) {
        let (shard, event) = (self.shard.to_string(), failed.event.as_ref().map(tracing::field::display));
        tracing::warn!(projection = shard, event, error = %Brief(&*failed.reason), "projection failed");
        measure::failed(&self.shard.projection);
        let failed: Arc<dyn std::error::Error + Send + Sync> = failed.told().into();
        self.store.runs(&self.shard.projection, Some(failed.clone()), false);
        self.report.send_modify(|status| status.error = Some(failed));
    }

    /// Tells how far it has come.
    fn moved(&self, place: &Place) {
        if self.report.borrow().error.is_some() {
            self.store.runs(&self.shard.projection, None, false);
        }
        self.report.send_modify(|status| {
            status.moved(&self.shard, place.position);
            status.head = self.tail.end().max(status.position);
            status.error = None;
            if status.state == State::Booting && status.position >= status.target {
                status.state = State::Active;
                self.poke.notify_one();
            }
        });
    }

    /// Waits for something, but not when asked to stop.
    async fn unless_stopped(&mut self, something: impl Future<Output = ()>) {
        tokio::select! {
            // No operator can ask any more: then it runs on.
            Ok(_) = self.stop.wait_for(|stop| *stop) => {}
            () = something => {}
        }
    }

    async fn step(&mut self, place: &mut Option<Place>) -> Result<(), Halt> {
        if place.as_ref().is_some_and(|place| place.lost != self.tail.lost()) {
            *place = None;
        }
        let place = match place {
            Some(place) => place,
            none => none.insert(self.begin().await?),
        };
        if !place.missed.is_empty() {
            return self.look_back(place).await;
        }
        let now = self.store.as_ref().now();
        if let Some((queue, at)) = place.parked.next()
            && at <= now
        {
            let queue = queue.clone();
            return self.retry(place, &queue).await;
        }
        if place.until.is_some_and(|until| until <= place.position) {
            return self.held().await;
        }
        let stretch = match self.tail.after(place.position) {
            After::Here(stretch) => {
                place.own = None;
                stretch
            }
            After::NotYet => {
                place.own = None;
                self.moved(place);
                let due = place.parked.next().map(|(_, at)| until(now, at));
                let tail = self.tail.clone();
                let mut failed = Ok(());
                let (position, lost) = (place.position, place.lost);
                self.unless_stopped(async {
                    tokio::select! {
                        there = tail.wait(position, lost) => failed = there,
                        () = sleep(due.unwrap_or_default()), if due.is_some() => {}
                    }
                })
                .await;
                return Ok(failed?);
            }
            After::Gone => match self.read(place).await? {
                Some(stretch) => Arc::new(stretch),
                None => return Ok(()),
            },
        };
        let stretch = match place.until {
            Some(until) if until < stretch.until => Arc::new(stretch.up_to(self.store.as_ref(), until).await?),
            _ => stretch,
        };
        self.through(place, &stretch).await
    }

    /// Finds out where it is, and whether the log is the one it was.
    async fn begin(&self) -> Result<Place, Halt> {
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
        // After the checkpoint, so that it is not older than the epoch: a shard that does not know of it can write nothing.
        let until = holds::until(store, &self.shard.projection).await?;
        let known = control::known(store, &self.shard.projection).await?;
        let missed = known.map(|known| Missed::of(&known)).transpose()?.unwrap_or_default();
        let missed = refold::pending(&missed, &self.shard);
        let Checkpoint { position, event, .. } = at;
        let (failed, own, back, tried) = (false, None, None, 1);
        Ok(Place { position, event, until, lost, parked, failed, own, missed, back, tried })
    }

    /// Processes events that were passed before this program read them: before anything else.
    async fn look_back(&mut self, place: &mut Place) -> Result<(), Halt> {
        let Some((names, range, after)) = place.missed.pop() else { return Ok(()) };
        let store = self.store.clone();
        if let Some(table) = self.follower.table() {
            let (follower, until) = (self.follower.clone(), place.position);
            let (store, parks) = (store.as_ref(), Some(self.options));
            tracing::info!(projection = %range, events = names.join(", "), "rows are made anew that lack events");
            let refold = Refold { store, follower: &*follower, table, fence: self, names: &names, until, parks };
            refold.run(range).await?;
            return self.look_again(place).await;
        }
        let limit = self.options.batch.unwrap_or(BATCH).min(self.most.unwrap_or(usize::MAX));
        let (query, until) = (reads::named(&names), Some(place.position));
        let read = Read { query, after, until, limit: Some(limit), ..Read::default() };
        let events: Vec<_> = store.as_ref().read(read).await?.events.try_collect().await?;
        let Some(last) = events.last() else {
            let (mut transaction, _) = self.open(true).await?;
            refold::progress(&mut *transaction, &range, &names, None).await?;
            return Ok(transaction.commit().await?);
        };
        let stretch = Stretch::new(after, last.position, Some(last.id), events);
        let (parked, lost, back) =
            (std::mem::take(&mut place.parked), place.lost, Some((names.clone(), range.clone())));
        let (event, own, missed, failed, tried) = (None, None, vec![], true, place.tried);
        let mut behind = Place { position: after, event, until: None, lost, parked, failed, own, missed, back, tried };
        let done = self.through(&mut behind, &stretch).await;
        (place.parked, place.tried) = (behind.parked, behind.tried);
        place.missed.push((names, range, behind.position));
        done
    }

    /// Waits until shards have changed.
    async fn held(&mut self) -> Result<(), Halt> {
        self.unless_stopped(sleep(HELD_PAUSE)).await;
        let shards = self.store.as_ref().shards(Some(&self.shard.projection)).await?;
        let same = shards.iter().any(|(shard, at)| *shard == self.shard && at.epoch == self.epoch);
        same.then_some(()).ok_or(Halt::Lost)
    }

    /// Reads on by itself; nothing if the reading has come to its end.
    async fn read(&self, place: &mut Place) -> Result<Option<Stretch>, StoreError> {
        place.tried = self.most.map_or(BATCH, |most| most.min(BATCH));
        let own = match &mut place.own {
            Some(own) => own,
            none => none.insert(self.reading(place.position).await?),
        };
        let stretch = own.stretches.recv().await.transpose()?;
        if stretch.is_none() {
            place.own = None;
        }
        Ok(stretch)
    }

    /// Reads from a position to where the log ends now, and decodes, while others are processed.
    async fn reading(&self, after: Position) -> Result<Own, StoreError> {
        // Where fewer are to be processed together, fewer are read: that may be what has taken too long.
        let limit = self.most.filter(|most| *most < BATCH);
        let read = Read { query: self.follower.query(), after, limit, ..Read::default() };
        let Events { head, events, .. } = self.store.as_ref().read(read).await?;
        let (store, follower) = (self.store.clone(), self.follower.clone());
        let most = limit.unwrap_or_else(|| self.options.batch.unwrap_or(LARGE_BATCH));
        let (report, pace) = (self.report.clone(), self.pace.clone());
        let mut reading = Reading { store, follower, report, pace, most, head, events };
        let (send, stretches) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut after = Some(after);
            while let Some(from) = after {
                let next = tokio::select! {
                    next = reading.next(from) => next,
                    () = send.closed() => return,
                };
                let more = |(stretch, full): &(Stretch, bool)| (*full && limit.is_none()).then_some(stretch.until);
                after = next.as_ref().ok().and_then(more);
                if send.send(next.map(|(stretch, _)| stretch)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Own { head, stretches, remembered: Remembered::default() })
    }

    /// Processes a stretch: all of it at once if that can be, and around what cannot be processed.
    async fn through(&mut self, place: &mut Place, stretch: &Stretch) -> Result<(), Halt> {
        let (mut end, mut tries) = (stretch.events.len(), 0);
        place.failed = false;
        while (stretch.after..stretch.until).contains(&place.position) {
            let first = stretch.place_after(place.position);
            let pace = self.pace();
            // A second's worth at most.
            end = pace.map_or(end, |pace| end.min(first + pace as usize)).max(first);
            let most = [self.most, self.options.batch].into_iter().flatten().min();
            end = most.map_or(end, |most| end.min(first.saturating_add(most)));
            place.tried = end - first;
            let all = end >= stretch.events.len();
            let to = match end.checked_sub(1).map(|last| &stretch.events[last]) {
                Some(last) if !all => (last.position, Some(last.id)),
                _ => (stretch.until, stretch.last),
            };
            match self.commit(place, stretch, first..end, to).await {
                Ok(()) => {
                    if let Some(pace) = pace {
                        let pause = Duration::from_secs_f64((end - first) as f64 / pace);
                        self.unless_stopped(sleep(pause)).await;
                    }
                    (end, tries) = (stretch.events.len(), 0);
                    // By a quarter: what was too much once is tried again, and not at once.
                    self.most = self.most.map(|most| most + most / 4 + 1).filter(|most| *most < LARGE_BATCH);
                }
                Err(Halt::Failed(failed)) if matches!(failed.blame, Blame::Event | Blame::Row) => {
                    place.failed = true;
                    let bad = failed.position().map(|position| stretch.place_after(position).saturating_sub(1));
                    match bad {
                        // What is before it first; then it alone.
                        Some(bad) if bad > first => end = bad,
                        Some(_) if end > first + 1 => end = first + 1,
                        Some(_) => {
                            let Some(queue) = failed.queue.clone() else { return Err(failed.for_certain().into()) };
                            if failed.blame == Blame::Event && tries < TRIES.len() {
                                self.tell(failed);
                                self.unless_stopped(sleep(TRIES[tries])).await;
                                tries += 1;
                            } else {
                                self.park(place, queue, failed)?;
                            }
                        }
                        None if end > first + 1 => end = first + (end - first) / 2,
                        None => return Err(failed.for_certain().into()),
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

    /// How many events this shard may process in a second.
    fn pace(&self) -> Option<f64> {
        pace(&self.report, &self.pace)
    }

    /// From now on, events wait here.
    fn park(&self, place: &mut Place, queue: Queue, failed: Failed) -> Result<(), Failed> {
        if place.parked.len() >= self.options.max_parked {
            let failed = failed.for_certain();
            let why = format!("{} keys are parked already, and more would be: {failed}", place.parked.len());
            return Err(Failed { reason: why.into(), event: None, ..failed });
        }
        let now = self.store.as_ref().now();
        let (shard, event) = (self.shard.to_string(), failed.event.as_ref().map(tracing::field::display));
        tracing::error!(projection = shard, event, error = %Brief(&*failed.reason), "an event and those behind it are parked");
        measure::failed(&self.shard.projection);
        let certain = failed.blame == Blame::Row;
        let waiting = Waiting { error: failed.to_string(), retry_at: retry_at(0, certain, now), first: true };
        place.parked.park(queue, waiting);
        Ok(())
    }

    /// A transaction in which no other node moves the shard, or anything of the projection; and where the shard stands.
    async fn open(&self, whole: bool) -> Result<(Box<dyn Transaction>, Checkpoint), Halt> {
        let mut transaction = self.store.as_ref().begin().await?;
        let mut stop = self.stop.clone();
        // The node that has locked it may be frozen: once this is to stop, it waits for it no longer than that.
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
                measure::fenced(&self.shard);
                tracing::info!(projection = %self.shard, epoch = self.epoch, "another node has taken it over");
                Err(Halt::Lost)
            }
        }
    }

    /// Has events processed and the checkpoint moved, or nothing.
    async fn commit(
        &self,
        place: &mut Place,
        stretch: &Stretch,
        places: std::ops::Range<usize>,
        to: (Position, Option<Uuid>),
    ) -> Result<(), Halt> {
        let (start, events) = (Instant::now(), places.len());
        let (projection, shard) = (&*self.shard.projection, &self.shard);
        let span = tracing::debug_span!("batch", projection, %shard, events);
        self.commit_batch(place, stretch, places, to).instrument(span).await?;
        if place.position == to.0 && place.back.is_none() {
            measure::batch(&self.shard, events, start.elapsed());
            let now = self.store.as_ref().now();
            self.report.send_modify(|status| {
                status.took(events);
                if status.lag() == 0 {
                    status.next(None, now);
                }
                measure::place(&status.name, status.position, status.lag(), status.parked);
            });
        }
        Ok(())
    }

    async fn commit_batch(
        &self,
        place: &mut Place,
        stretch: &Stretch,
        places: std::ops::Range<usize>,
        to: (Position, Option<Uuid>),
    ) -> Result<(), Halt> {
        if self.step_over(place, stretch, places.clone(), to).await {
            self.took(place, to);
            return Ok(());
        }
        let back = place.back.clone();
        let shard = back.as_ref().map_or(&self.shard, |(_, range)| range);
        let part = Part { stretch, places, shard, parked: &place.parked, only: None };
        self.deliver(&part).await?;
        let (mut transaction, at) = self.open(back.is_some()).await?;
        if back.is_none() && at.position != place.position {
            // It was moved meanwhile, by an append that keeps the rows itself; or a commit had succeeded after all, or was
            // lost in a crash. Such a commit may also have parked something.
            transaction.rollback().await?;
            place.own = place.own.take().filter(|_| at.position > place.position);
            place.own.iter_mut().for_each(|own| own.remembered = Remembered::default());
            (place.position, place.event) = (at.position, at.event);
            return self.look_again(place).await;
        }
        if let Err(forked) = unforked(&mut *transaction, &at).await {
            transaction.rollback().await?;
            return Err(forked.into());
        }
        // Until it is certain that they are in the table, nothing is known of the rows.
        let mut remembered = place.own.as_mut().map(|own| std::mem::take(&mut own.remembered));
        let waiting = match self.take(&mut transaction, &part, remembered.as_mut()).await {
            Ok(waiting) => waiting,
            Err(failed) => {
                // If the connection is broken, it is not the event that is to blame.
                transaction.rollback().await?;
                return Err(failed.into());
            }
        };
        let letters = self.letters(place, stretch, &waiting);
        if !letters.is_empty() {
            transaction.write(letters::changes(&letters, &[])?).await?;
        }
        let moved = match &back {
            Some((names, range)) => {
                refold::progress(&mut *transaction, range, names, Some(to.0)).await?;
                Ok(())
            }
            None => transaction.advance(&self.shard, to.0, to.1).await,
        };
        if let Err(error) = moved {
            transaction.rollback().await?;
            return Err(match error {
                // The log has lost its end since this was read, and the checkpoint with it.
                StoreError::Forked { .. } => {
                    self.tail.forget();
                    let reason = format!("what was read up to position {} is not in the log any more", to.0);
                    StoreError::Damaged(reason.into()).into()
                }
                error => error.into(),
            });
        }
        if letters.is_empty() && place.is_followed(to.0) {
            // Letters wait for the disk: that they are written is remembered.
            transaction.lazy();
        }
        transaction.commit().await?;
        if let (Some(own), Some(remembered)) = (&mut place.own, remembered) {
            own.remembered = remembered;
        }
        for letter in letters {
            if let Some(waiting) = place.parked.get_mut(&Queue::of(&letter)) {
                waiting.first = false;
            }
        }
        self.took(place, to);
        Ok(())
    }

    /// The same in one statement, where that can be: nothing has failed, and rows are all there is to write. What it cannot do,
    /// for whatever reason, is for a transaction to do, or to say why.
    async fn step_over(
        &self,
        place: &mut Place,
        stretch: &Stretch,
        places: std::ops::Range<usize>,
        to: (Position, Option<Uuid>),
    ) -> bool {
        if place.failed || place.back.is_some() || !place.parked.is_empty() {
            return false;
        }
        let mut remembered = place.own.as_mut().map(|own| std::mem::take(&mut own.remembered));
        let part = Part { stretch, places, shard: &self.shard, parked: &place.parked, only: None };
        let folded = self.follower.fold(self.store.as_ref(), &part, remembered.as_mut());
        let Ok(Ok(Some(changes))) = AssertUnwindSafe(folded).catch_unwind().await else { return false };
        let Place { position, event, .. } = *place;
        let from = Checkpoint { position, event, epoch: self.epoch, owner: Some(self.node) };
        let step = Step { shard: self.shard.clone(), from, to, changes, lazy: place.is_followed(to.0) };
        let done = matches!(self.store.as_ref().step(step).await, Ok(true));
        if let (true, Some(own), Some(remembered)) = (done, &mut place.own, remembered) {
            own.remembered = remembered;
        }
        done
    }

    /// Takes note that the shard has moved.
    fn took(&self, place: &mut Place, (position, event): (Position, Option<Uuid>)) {
        (place.position, place.event) = (position, event);
        if place.back.is_none() {
            self.moved(place);
        }
        self.report
            .send_if_modified(|status| std::mem::replace(&mut status.parked, place.parked.len()) != place.parked.len());
    }

    async fn take(
        &self,
        transaction: &mut Box<dyn Transaction>,
        part: &Part<'_>,
        remembered: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failed> {
        let taken = AssertUnwindSafe(self.follower.take(&mut **transaction, part, remembered)).catch_unwind().await;
        let taken = taken.unwrap_or_else(|panic| Err(Failed::panicked(&*panic)));
        taken.map_err(|failed| self.by_policy(part, failed))
    }

    async fn deliver(&self, part: &Part<'_>) -> Result<(), Failed> {
        self.follower.deliver(self.store.as_ref(), part).await.map_err(|failed| self.by_policy(part, failed))
    }

    /// What cannot be read stops it, or is parked: at once, and for good if it is tried again.
    fn by_policy(&self, part: &Part<'_>, failed: Failed) -> Failed {
        let parks = failed.queue.is_some() && (self.options.park_unreadable || part.only.is_some());
        match failed.blame {
            Blame::Unreadable if parks => Failed { blame: Blame::Row, ..failed },
            Blame::Unreadable => failed.for_certain(),
            _ => failed,
        }
    }

    /// A letter for each event that must wait.
    fn letters(&self, place: &mut Place, stretch: &Stretch, waiting: &[(Queue, usize)]) -> Vec<DeadLetter> {
        let now = self.store.as_ref().now();
        let mut first = std::collections::HashSet::new();
        let letter = |(queue, at): &(Queue, usize)| {
            let of = place.parked.get_mut(queue)?;
            let mut letter = queue.letter(&self.shard, &stretch.events[*at], &of.error, now);
            // Of a key, the first one failed, the others wait for it.
            match of.first && first.insert(queue.clone()) {
                true => letter.retry_at = of.retry_at,
                false => letter.error = letters::BEHIND.into(),
            }
            Some(letter)
        };
        waiting.iter().filter_map(letter).collect()
    }

    /// Tries events that wait again, in their order.
    async fn retry(&self, place: &mut Place, queue: &Queue) -> Result<(), Halt> {
        const TOGETHER: usize = 1_000;
        let store = self.store.as_ref();
        let sweep = Sweep::all_of(&self.shard.projection, queue.key(), TOGETHER + 1);
        let waiting = swept(store, sweep).await?.into_iter();
        let waiting: Vec<_> = waiting.filter(|letter| Queue::of(letter) == *queue).collect();
        let more = waiting.len() > TOGETHER;
        let mut letters: Vec<_> = waiting.into_iter().take(TOGETHER).collect();
        let events = store.recorded(letters.iter().map(|letter| letter.event).collect()).await?;
        let stretch = Stretch::new(Position(0), Position(u64::MAX), None, events);
        let mut end = letters.len();
        while !letters.is_empty() {
            let first = stretch.events.len() - letters.len();
            match self.again(place, &stretch, first..first + end, queue, &letters[..end]).await {
                Ok(true) => {
                    letters.drain(..end);
                    end = letters.len();
                }
                Ok(false) => return self.look_again(place).await,
                Err(Halt::Failed(failed)) if matches!(failed.blame, Blame::Event | Blame::Row) => {
                    if end > 1 {
                        let bad = failed.position().map(|bad| stretch.place_after(bad).saturating_sub(first + 1));
                        end = bad.filter(|bad| *bad > 0).unwrap_or(end / 2).clamp(1, end - 1);
                        continue;
                    }
                    let now = store.now();
                    let letter = &mut letters[0];
                    letters::failed(letter, &failed, now);
                    let retry_at = letter.retry_at;
                    let letter = std::slice::from_ref(&*letter);
                    let Some(mut transaction) = self.open_for(letter).await? else {
                        return self.look_again(place).await;
                    };
                    transaction.write(letters::changes(letter, &[])?).await?;
                    transaction.commit().await?;
                    if let Some(waiting) = place.parked.get_mut(queue) {
                        (waiting.retry_at, waiting.error) = (retry_at, failed.to_string());
                    }
                    return Ok(());
                }
                Err(halt) => return Err(halt),
            }
        }
        if !more {
            place.parked.free(queue);
            self.report.send_modify(|status| status.parked = place.parked.len());
        }
        Ok(())
    }

    /// A transaction in which no other node moves the shard, if these letters are still there: a commit whose answer was lost
    /// may have been done after all, and have processed what they are of.
    async fn open_for(&self, letters: &[DeadLetter]) -> Result<Option<Box<dyn Transaction>>, Halt> {
        let (mut transaction, _) = self.open(false).await?;
        let there = Rows::Keys { table: LETTERS, keys: letters.iter().map(DeadLetter::row).collect() };
        if transaction.rows(there).await?.len() == letters.len() {
            return Ok(Some(transaction));
        }
        transaction.rollback().await?;
        Ok(None)
    }

    /// Finds out what waits now.
    async fn look_again(&self, place: &mut Place) -> Result<(), Halt> {
        place.parked = Parked::load(self.store.as_ref(), &self.shard).await?;
        self.report.send_modify(|status| status.parked = place.parked.len());
        Ok(())
    }

    /// Processes events that waited and removes their letters, or nothing. Those of a stream may have to wait on, for a key.
    /// Says whether the letters were still there.
    async fn again(
        &self,
        place: &mut Place,
        stretch: &Stretch,
        places: std::ops::Range<usize>,
        queue: &Queue,
        letters: &[DeadLetter],
    ) -> Result<bool, Halt> {
        let part = Part { stretch, places, shard: &self.shard, parked: &place.parked, only: Some(queue) };
        self.deliver(&part).await?;
        let Some(mut transaction) = self.open_for(letters).await? else { return Ok(false) };
        let waiting = match self.take(&mut transaction, &part, None).await {
            Ok(waiting) => waiting,
            Err(failed) => {
                transaction.rollback().await?;
                return Err(failed.into());
            }
        };
        let waiting = self.letters(place, stretch, &waiting);
        transaction.write(letters::changes(&waiting, letters)?).await?;
        transaction.commit().await?;
        Ok(true)
    }
}

#[async_trait]
impl Fence for Work {
    async fn open(&self) -> Result<(Box<dyn Transaction>, Checkpoint), Halt> {
        self.open(true).await
    }
}

/// How many events one shard of those there are may process in a second.
fn pace(report: &watch::Sender<Status>, pace: &watch::Receiver<Option<u64>>) -> Option<f64> {
    let shards = report.borrow().shards.len().max(1);
    pace.borrow().map(|pace| (pace as f64 / shards as f64).max(1.0))
}

fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(at.as_micros().saturating_sub(now.as_micros())).unwrap_or(0))
}
