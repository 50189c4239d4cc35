//! Group commit: appends that wait at the same moment share one call, one lock and one flush.
//!
//! Whoever comes while nobody appends calls at once, in one round trip. Whoever comes while somebody does waits in a
//! queue, and all who wait are the next batch, with those the last one has woken, if they come again within a small part
//! of the time it took: the busier it is, the larger the batches. What a call does not record goes the careful way, by
//! itself: an append that fails never touches its neighbours.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    mem::take,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use eventstore_core::{Position, StoreError, StreamId, Written};
use tokio::{runtime::Handle, sync::oneshot, task::yield_now};
use uuid::Uuid;

use crate::{
    append::{Checked, Failed},
    error, lean,
    lines::Line,
    shared::Shared,
};

/// How many appends, events and bytes one call may take, unless a single append has more.
const BATCH_APPENDS: usize = 512;
const BATCH_EVENTS: usize = 2_048;
const BATCH_BYTES: usize = 4 << 20;

/// With so many waiting for one call, another is made meanwhile: the server reads it while it flushes the first.
const ANOTHER: usize = 64;

/// How many flushes may be under way: what is recorded while the server waits to begin one, it flushes with it.
const FLUSHES: usize = 4;

/// For how many calls after one that repeats a recorded append the event ids of each are looked up first. An id that is
/// taken breaks a call, and all that share it; to look is a round trip.
const WARY: u32 = 64;

/// Which part of the time that a call has taken may go into waiting for those it has woken; and how long at most.
const LINGER: u32 = 16;
const LINGER_MOST: Duration = Duration::from_millis(1);

/// What an acknowledged append has gone through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It is on disk before anybody sees it.
    #[default]
    Strict,
    /// It is on disk before it is acknowledged, but others may see it a moment before that: while one batch is flushed,
    /// the next is recorded. If the server crashes in that moment, what was not acknowledged may be gone, although a
    /// reader has seen it. What is kept in the same database (read models, checkpoints) is never ahead of the log; what
    /// left it (an e-mail, a message to a broker) may be. Faster where a flush takes long and many append at once.
    Pipelined,
}

/// Those who append, and those who wait for their turn.
pub(crate) struct Writer {
    state: Mutex<State>,
    /// How many may wait.
    queue: usize,
    durability: Durability,
    /// How many calls may be under way.
    lanes: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// How many calls are under way.
    busy: usize,
    /// How many will wait, if all who were told something come again.
    expected: usize,
    /// How long it took lately until a batch was on disk.
    took: Duration,
    /// Recorded, and to be told when it is on disk.
    unflushed: Vec<Answer>,
    /// The last event of these, and where it is.
    last: Option<(Position, Uuid)>,
    /// How many wait for the disk on behalf of others.
    flushing: usize,
    /// For how many calls more the server is asked first which of their event ids are recorded.
    wary: u32,
}

/// A reply, and the caller who waits for it.
type Answer = (oneshot::Sender<Reply>, Reply);

/// An append in the queue.
struct Waiting {
    append: Arc<Checked>,
    reply: oneshot::Sender<Reply>,
}

/// What became of an append.
pub(crate) enum Reply {
    Recorded(Written),
    Refused(StoreError),
    /// The careful way will find out why.
    NotRecorded,
    /// An event of it was recorded before. All of them perhaps, and then the first result is the answer.
    Taken,
    /// The connection broke: recorded or not, nobody knows.
    Lost,
}

/// What an append gets that asks to be recorded.
enum Admitted {
    AtOnce(Turn),
    Queued(oneshot::Receiver<Reply>),
}

impl Writer {
    pub(crate) fn new(queue: usize, durability: Durability, lanes: usize) -> Self {
        Self { state: Mutex::default(), queue, durability, lanes }
    }

    pub(crate) fn is_pipelined(&self) -> bool {
        self.durability == Durability::Pipelined
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic happens while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no append is under way, waits for its turn or waits for the disk.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state();
        state.busy == 0 && state.flushing == 0 && state.waiting.is_empty() && state.unflushed.is_empty()
    }

    /// Appends at once if nobody else does, else with the next batch.
    pub(crate) async fn append(shared: &Arc<Shared>, append: &Arc<Checked>) -> Reply {
        match shared.writer.admit(shared, append) {
            Ok(Admitted::AtOnce(turn)) => {
                let (server, mut replies) = turn.call(std::slice::from_ref(append), false).await;
                recorded(shared, server, &replies);
                replies.pop().unwrap_or(Reply::NotRecorded)
            }
            // Nobody answers if the runtime of the batch ended in the middle of it.
            Ok(Admitted::Queued(reply)) => reply.await.unwrap_or(Reply::Lost),
            Err(full) => Reply::Refused(full),
        }
    }

    fn admit(&self, shared: &Arc<Shared>, append: &Arc<Checked>) -> Result<Admitted, StoreError> {
        // Here, where nothing has been counted yet: it panics outside of a runtime.
        let runtime = Handle::current();
        let mut state = self.state();
        if state.busy == 0 && state.waiting.is_empty() && state.expected <= 1 {
            state.busy += 1;
            drop(state);
            return Ok(Admitted::AtOnce(Turn { shared: shared.clone(), runtime, task: false }));
        }
        if state.waiting.len() >= self.queue {
            return Err(StoreError::Busy(format!("{} appends are waiting already", self.queue).into()));
        }
        let (reply, answer) = oneshot::channel();
        state.waiting.push_back(Waiting { append: append.clone(), reply });
        let free = state.busy == 0 || (state.busy < self.lanes && state.waiting.len() >= ANOTHER);
        state.busy += usize::from(free);
        drop(state);
        if free {
            Turn { shared: shared.clone(), runtime, task: false }.follow();
        }
        Ok(Admitted::Queued(answer))
    }

    /// Tells the callers what has become of a call, or of a flush; who has gone does not want to know.
    fn tell(&self, since: Instant, replies: impl IntoIterator<Item = Answer>) {
        let replies: Vec<_> = replies.into_iter().collect();
        let mut state = self.state();
        state.expected = state.waiting.len() + replies.len();
        state.took = since.elapsed();
        drop(state);
        for (caller, reply) in replies {
            let _ = caller.send(reply);
        }
    }
}

/// The right to make calls. Whoever still waits when it ends is seen to by the next.
struct Turn {
    shared: Arc<Shared>,
    runtime: Handle,
    /// Whether this is a task of its own, which ends before its time only if its runtime does.
    task: bool,
}

impl Turn {
    /// Batch after batch until nobody waits, on a task of its own: no caller's end is the end of others.
    fn follow(mut self) {
        self.task = true;
        let runtime = self.runtime.clone();
        runtime.spawn(self.run());
    }

    async fn run(mut self) {
        loop {
            self.gather().await;
            let batch = take_batch(&mut self.shared.writer.state().waiting);
            if batch.is_empty() {
                break;
            }
            let (appends, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|one| (one.append, one.reply)).unzip();
            let start = Instant::now();
            let pipelined = self.shared.writer.is_pipelined();
            let (server, replies) = self.call(&appends, pipelined).await;
            if !pipelined {
                recorded(&self.shared, server, &replies);
            }
            let last = appends.iter().zip(&replies).filter_map(|(append, reply)| reply.last(append));
            let last = last.max();
            let replies = callers.into_iter().zip(replies);
            if let (true, Some(last)) = (pipelined, last) {
                self.flush(last, replies);
            } else {
                self.shared.writer.tell(start, replies);
            }
        }
        self.task = false;
    }

    /// Lets those come first whom the last batch has woken, so that they are in the next one and not in the one after:
    /// else they and those who wait now would take turns, in batches of half the size. It does not wait for long: they may
    /// have nothing more to append.
    async fn gather(&self) {
        let start = Instant::now();
        loop {
            yield_now().await;
            let state = self.shared.writer.state();
            let all = state.waiting.len() >= state.expected.min(BATCH_APPENDS);
            if all || start.elapsed() > (state.took / LINGER).min(LINGER_MOST) {
                return;
            }
        }
    }

    /// Tells the callers when it is on disk, up to the last event; the next call is made meanwhile.
    fn flush(&self, last: (Position, Uuid), replies: impl Iterator<Item = Answer>) {
        let mut state = self.shared.writer.state();
        state.unflushed.extend(replies);
        state.last = state.last.max(Some(last));
        if state.flushing < FLUSHES {
            state.flushing += 1;
            drop(state);
            self.runtime.spawn(Flush { shared: self.shared.clone(), over: false }.run());
        }
    }

    /// One call for all of these, and a reply for each; and the server that has made it. Pipelined, it does not wait for the
    /// disk.
    async fn call(&self, appends: &[Arc<Checked>], pipelined: bool) -> (u64, Vec<Reply>) {
        let mut line = match Line::free(&self.shared).await {
            Ok(line) => line,
            Err(error) => {
                let down = error::refused(&error).then(|| error.to_string());
                let reply = || down.as_ref().map_or(Reply::NotRecorded, |why| unavailable(why));
                return (0, appends.iter().map(|_| reply()).collect());
            }
        };
        let server = line.server();
        let wary = {
            let mut state = self.shared.writer.state();
            let wary = state.wary > 0 && appends.len() > 1;
            state.wary -= u32::from(wary);
            wary
        };
        // Dropped in the middle, the line is closed: the next call gets one that is not waiting for an answer.
        let replies = match wary {
            true => self.call_others(&mut line, appends, pipelined).await,
            false => match self.call_once(&mut line, appends, pipelined).await {
                Err(error) if appends.len() > 1 && error::is(&error, &["23505"]) => {
                    self.call_others(&mut line, appends, pipelined).await
                }
                called => called,
            },
        };
        match replies {
            Ok(replies) => {
                line.keep();
                (server, replies)
            }
            Err(error) => {
                let reply = if error::lost(&error) {
                    || Reply::Lost
                } else if error::is(&error, &["55P03"]) {
                    // Somebody has kept the lock for too long: each would only wait for it again.
                    || Reply::Refused(StoreError::Busy("another append keeps the lock of the log".into()))
                } else {
                    || Reply::NotRecorded
                };
                if error::odd(&error) {
                    // The next session may be one as it should be.
                    line.close();
                } else if error::broken(&error) {
                    self.shared.head.broke();
                } else {
                    line.keep();
                }
                (server, appends.iter().map(|_| reply()).collect())
            }
        }
    }

    /// The same, for those of which no event is recorded yet: what repeats a recorded append does not break the call of its
    /// neighbours.
    async fn call_others(
        &self,
        line: &mut Line,
        appends: &[Arc<Checked>],
        pipelined: bool,
    ) -> Result<Vec<Reply>, sqlx::Error> {
        let ids = appends.iter().flat_map(|append| append.append.events().map(|(_, event)| event.id));
        let taken = lean::taken(line, &self.shared, ids.collect()).await?;
        let is_taken = |append: &Checked| append.append.events().any(|(_, event)| taken.contains(&event.id));
        if !taken.is_empty() {
            self.shared.writer.state().wary = WARY;
        }
        let others: Vec<_> = appends.iter().filter(|append| !is_taken(append)).cloned().collect();
        let mut replies = match &others[..] {
            [] => vec![],
            others => self.call_once(line, others, pipelined).await?,
        }
        .into_iter();
        let reply = |append: &Arc<Checked>| match is_taken(append) {
            true => Reply::Taken,
            false => replies.next().unwrap_or(Reply::NotRecorded),
        };
        Ok(appends.iter().map(reply).collect())
    }

    async fn call_once(
        &self,
        line: &mut Line,
        appends: &[Arc<Checked>],
        pipelined: bool,
    ) -> Result<Vec<Reply>, sqlx::Error> {
        let recorded = match appends {
            [append] if !pipelined && append.is_plain() => {
                vec![lean::append_one(line, &self.shared, append).await?]
            }
            [append] if !pipelined || !append.lean => {
                match append.record(line, &self.shared, &mut vec![], false, false).await {
                    // Whether what was recorded before is on disk, the careful way sees to.
                    Ok(written) => vec![Some(written).filter(|written| !written.replayed)],
                    Err(Failed::Refused(error)) => return Ok(vec![Reply::Refused(error)]),
                    Err(Failed::Broken(error)) => return Err(error),
                }
            }
            appends => {
                let appends: Vec<_> = appends.iter().map(|append| &**append).collect();
                lean::append_batch(line, &self.shared, &appends, pipelined).await?
            }
        };
        Ok(recorded.into_iter().map(|written| written.map_or(Reply::NotRecorded, Reply::Recorded)).collect())
    }
}

fn unavailable(why: &str) -> Reply {
    Reply::Refused(StoreError::Unavailable(why.into()))
}

impl Reply {
    /// The position and the id of the last event of an append, if it was recorded.
    fn last(&self, append: &Checked) -> Option<(Position, Uuid)> {
        let Self::Recorded(written) = self else { return None };
        Some((written.last, append.append.events().last()?.1.id))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.shared.writer.state();
        state.busy -= 1;
        if self.task {
            // Their places are gone, and they notice.
            let lost = take(&mut state.waiting);
            drop(state);
            drop(lost);
            return;
        }
        // Whoever has called at once may come again.
        state.expected = state.waiting.len() + 1;
        if !state.waiting.is_empty() && state.busy == 0 {
            state.busy += 1;
            drop(state);
            Self { shared: self.shared.clone(), runtime: self.runtime.clone(), task: false }.follow();
        }
    }
}

/// The right to wait for the disk.
struct Flush {
    shared: Arc<Shared>,
    over: bool,
}

impl Flush {
    /// Those who wait now, and the last event of theirs; none, and it is over.
    fn waiting(&mut self) -> Option<(Uuid, Vec<Answer>)> {
        let mut state = self.shared.writer.state();
        self.over = state.unflushed.is_empty();
        state.flushing -= usize::from(self.over);
        let last = state.last.take().filter(|_| !self.over)?.1;
        Some((last, take(&mut state.unflushed)))
    }

    /// Flush after flush, until nobody waits for one. One is enough for all that was recorded before it began. The server may
    /// have crashed since, and have lost what was not on disk: then a flush says nothing of it.
    async fn run(mut self) {
        while let Some((last, waiting)) = self.waiting() {
            let start = Instant::now();
            let flushed = match Line::free(&self.shared).await {
                Ok(mut line) => {
                    let server = line.server();
                    let flushed = lean::flush(&mut line, &self.shared, last).await;
                    if flushed.is_ok() {
                        line.keep();
                    }
                    flushed.is_ok_and(|there| there).then_some(server)
                }
                Err(_) => None,
            };
            if let Some(server) = flushed {
                recorded(&self.shared, server, waiting.iter().map(|(_, reply)| reply));
                self.shared.writer.tell(start, waiting);
            } else {
                self.shared.writer.tell(start, waiting.into_iter().map(|(caller, _)| (caller, Reply::Lost)));
            }
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // The runtime has ended: those who wait notice that their places are gone.
        let mut state = self.shared.writer.state();
        state.flushing -= 1;
        let lost = take(&mut state.unflushed);
        drop(state);
        drop(lost);
    }
}

/// Takes note of what was recorded on a server, whether or not its callers are still there.
fn recorded<'a>(shared: &Arc<Shared>, server: u64, replies: impl IntoIterator<Item = &'a Reply>) {
    let last = replies.into_iter().filter_map(|reply| match reply {
        Reply::Recorded(written) => Some(written.last),
        _ => None,
    });
    if let Some(last) = last.max() {
        shared.recorded(server, last);
    }
}

/// Those from the front of the queue that can be recorded together. The others stay, in their order.
fn take_batch(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut batch = Batch::default();
    let mut left = VecDeque::new();
    while let Some(next) = waiting.pop_front() {
        if next.reply.is_closed() {
            // Its caller has gone before anything was sent.
        } else if batch.full() {
            waiting.push_front(next);
            break;
        } else if batch.admits(&next.append) {
            batch.push(next);
        } else {
            // What it waits for includes what it has to come after.
            batch.note(&next.append);
            left.push_back(next);
        }
    }
    while let Some(next) = left.pop_back() {
        waiting.push_front(next);
    }
    batch.taken
}

/// Appends that do not depend on each other.
#[derive(Default)]
struct Batch {
    taken: Vec<Waiting>,
    hashes: RandomState,
    /// Streams that are written to, by their hash: an append too many that has to wait is no harm.
    written: HashSet<u64>,
    /// Streams that are to stay as they are.
    unchanged: HashSet<u64>,
    ids: HashSet<Uuid>,
    events: usize,
    bytes: usize,
}

impl Batch {
    fn full(&self) -> bool {
        self.taken.len() >= BATCH_APPENDS || self.events >= BATCH_EVENTS || self.bytes >= BATCH_BYTES
    }

    fn hash(&self, stream: &StreamId) -> u64 {
        self.hashes.hash_one(stream)
    }

    /// Whether nothing about it depends on what the others do.
    fn admits(&self, checked: &Checked) -> bool {
        let append = &checked.append;
        let new = |stream| {
            let hash = self.hash(stream);
            !self.written.contains(&hash) && !self.unchanged.contains(&hash)
        };
        // One that is not lean goes by itself.
        (self.taken.is_empty() || checked.lean && self.taken[0].append.lean)
            && append.writes.iter().all(|write| new(&write.stream))
            && append.unchanged.iter().all(|(stream, _)| !self.written.contains(&self.hash(stream)))
            && append.events().all(|(_, event)| !self.ids.contains(&event.id))
            && append.condition.as_ref().is_none_or(|condition| {
                let events = self.taken.iter().flat_map(|taken| taken.append.append.events());
                events.into_iter().all(|(stream, event)| !condition.query.may_match(stream, &event.data))
            })
    }

    /// Takes its streams, so that whoever comes after it stays after it.
    fn note(&mut self, append: &Checked) {
        let append = &append.append;
        for write in &append.writes {
            self.written.insert(self.hash(&write.stream));
        }
        for (stream, _) in &append.unchanged {
            self.unchanged.insert(self.hash(stream));
        }
    }

    fn push(&mut self, waiting: Waiting) {
        self.note(&waiting.append);
        for (_, event) in waiting.append.append.events() {
            self.ids.insert(event.id);
            self.events += 1;
            self.bytes += event.data.body.len();
        }
        self.taken.push(waiting);
    }
}
