//! Group commit: appends that wait at the same moment share one call, one lock and one flush.
//!
//! An append that comes while no other is open calls at once, in one round trip. One that comes meanwhile waits in a
//! queue, and all who wait are the next batch, with those the last one has woken, if they come again within a small part
//! of the time it took: the busier it is, the larger the batches. What a call does not record goes the careful way, by
//! itself: an append that fails never touches its neighbours.

use std::{
    collections::VecDeque,
    mem::take,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use eventstore_core::{Position, StoreError};
use tokio::{runtime::Handle, sync::oneshot, task::yield_now};
use uuid::Uuid;

use crate::{
    append::{Checked, Failed},
    batch::{BATCH_APPENDS, Reply, Waiting, take_batch},
    connections::{Connections, Dedicated},
    db::Db,
    error, fast_path,
    notify::Notify,
};

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
    db: Arc<Db>,
    connections: Arc<Connections>,
    notify: Arc<Notify>,
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

/// What an append gets that asks to be recorded.
enum Admitted {
    AtOnce(Turn),
    Queued(oneshot::Receiver<Reply>),
}

impl Writer {
    pub(crate) fn new(
        connections: Arc<Connections>,
        notify: Arc<Notify>,
        queue: usize,
        durability: Durability,
        lanes: usize,
    ) -> Self {
        let db = connections.db.clone();
        Self { db, connections, notify, state: Mutex::default(), queue, durability, lanes }
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

    /// Appends at once if no other call is open, else with the next batch.
    pub(crate) async fn append(self: &Arc<Self>, append: &Arc<Checked>) -> Reply {
        match self.admit(append) {
            Ok(Admitted::AtOnce(turn)) => {
                let (server, mut replies) = turn.call(std::slice::from_ref(append), false).await;
                self.recorded(server, &replies);
                replies.pop().unwrap_or(Reply::NotRecorded)
            }
            // There is no answer if the runtime of the batch ended in the middle of it.
            Ok(Admitted::Queued(reply)) => reply.await.unwrap_or(Reply::Lost),
            Err(full) => Reply::Refused(full),
        }
    }

    fn admit(self: &Arc<Self>, append: &Arc<Checked>) -> Result<Admitted, StoreError> {
        // Here, where nothing has been counted yet: it panics outside of a runtime.
        let runtime = Handle::current();
        let mut state = self.state();
        if state.busy == 0 && state.waiting.is_empty() && state.expected <= 1 {
            state.busy += 1;
            drop(state);
            return Ok(Admitted::AtOnce(Turn { writer: self.clone(), runtime, task: false }));
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
            Turn { writer: self.clone(), runtime, task: false }.follow();
        }
        Ok(Admitted::Queued(answer))
    }

    /// Takes note of what was recorded on a server, whether or not its callers are still there.
    fn recorded<'a>(&self, server: u64, replies: impl IntoIterator<Item = &'a Reply>) {
        let last = replies.into_iter().filter_map(|reply| match reply {
            Reply::Recorded(written) => Some(written.last),
            _ => None,
        });
        if let Some(last) = last.max() {
            self.notify.recorded(server, last);
        }
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

/// The right to make calls. Appends that still wait when it ends are left to the next.
struct Turn {
    writer: Arc<Writer>,
    runtime: Handle,
    /// Whether this is a task of its own, which ends before its time only if its runtime does.
    task: bool,
}

impl Turn {
    /// Batch after batch until no append waits, on a task of its own: no caller's end is the end of others.
    fn follow(mut self) {
        self.task = true;
        let runtime = self.runtime.clone();
        runtime.spawn(self.run());
    }

    async fn run(mut self) {
        loop {
            self.gather().await;
            let batch = take_batch(&mut self.writer.state().waiting);
            if batch.is_empty() {
                break;
            }
            let (appends, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|one| (one.append, one.reply)).unzip();
            let start = Instant::now();
            let pipelined = self.writer.is_pipelined();
            let (server, replies) = self.call(&appends, pipelined).await;
            if !pipelined {
                self.writer.recorded(server, &replies);
            }
            let last = appends.iter().zip(&replies).filter_map(|(append, reply)| reply.last(append));
            let last = last.max();
            let replies = callers.into_iter().zip(replies);
            if let (true, Some(last)) = (pipelined, last) {
                self.flush(last, replies);
            } else {
                self.writer.tell(start, replies);
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
            let state = self.writer.state();
            let all = state.waiting.len() >= state.expected.min(BATCH_APPENDS);
            if all || start.elapsed() > (state.took / LINGER).min(LINGER_MOST) {
                return;
            }
        }
    }

    /// Tells the callers when it is on disk, up to the last event; the next call is made meanwhile.
    fn flush(&self, last: (Position, Uuid), replies: impl Iterator<Item = Answer>) {
        let mut state = self.writer.state();
        state.unflushed.extend(replies);
        state.last = state.last.max(Some(last));
        if state.flushing < FLUSHES {
            state.flushing += 1;
            drop(state);
            self.runtime.spawn(Flush { writer: self.writer.clone(), over: false }.run());
        }
    }

    /// One call for all of these, and a reply for each; and the server that has made it. Pipelined, it does not wait for the
    /// disk.
    async fn call(&self, appends: &[Arc<Checked>], pipelined: bool) -> (u64, Vec<Reply>) {
        let mut connection = match Dedicated::free(&self.writer.connections).await {
            Ok(connection) => connection,
            Err(error) => {
                let down = error::refused(&error).then(|| error.to_string());
                let reply = || down.as_ref().map_or(Reply::NotRecorded, |why| unavailable(why));
                return (0, appends.iter().map(|_| reply()).collect());
            }
        };
        let server = connection.server();
        let wary = {
            let mut state = self.writer.state();
            let wary = state.wary > 0 && appends.len() > 1;
            state.wary -= u32::from(wary);
            wary
        };
        // Dropped in the middle, the connection is closed: the next call gets one that is not waiting for an answer.
        let replies = match wary {
            true => self.call_others(&mut connection, appends, pipelined).await,
            false => match self.call_once(&mut connection, appends, pipelined).await {
                Err(error) if appends.len() > 1 && error::is(&error, &["23505"]) => {
                    self.call_others(&mut connection, appends, pipelined).await
                }
                called => called,
            },
        };
        match replies {
            Ok(replies) => {
                connection.keep();
                (server, replies)
            }
            Err(error) => {
                let reply = if error::lost(&error) {
                    || Reply::Lost
                } else if error::is(&error, &["55P03"]) {
                    // Another session has kept the lock for too long: each would only wait for it again.
                    || Reply::Refused(StoreError::Busy("another append keeps the lock of the log".into()))
                } else {
                    || Reply::NotRecorded
                };
                if error::odd(&error) {
                    // The next session may be one as it should be.
                    connection.close();
                } else if error::broken(&error) {
                    self.writer.db.head.broke();
                } else {
                    connection.keep();
                }
                (server, appends.iter().map(|_| reply()).collect())
            }
        }
    }

    /// The same, for those of which no event is recorded yet: what repeats a recorded append does not break the call of its
    /// neighbours.
    async fn call_others(
        &self,
        connection: &mut Dedicated,
        appends: &[Arc<Checked>],
        pipelined: bool,
    ) -> Result<Vec<Reply>, sqlx::Error> {
        let ids = appends.iter().flat_map(|append| append.append.events().map(|(_, event)| event.id));
        let taken = fast_path::taken(connection, &self.writer.db, ids.collect()).await?;
        let is_taken = |append: &Checked| append.append.events().any(|(_, event)| taken.contains(&event.id));
        if !taken.is_empty() {
            self.writer.state().wary = WARY;
        }
        let others: Vec<_> = appends.iter().filter(|append| !is_taken(append)).cloned().collect();
        let mut replies = match &others[..] {
            [] => vec![],
            others => self.call_once(connection, others, pipelined).await?,
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
        connection: &mut Dedicated,
        appends: &[Arc<Checked>],
        pipelined: bool,
    ) -> Result<Vec<Reply>, sqlx::Error> {
        let recorded = match appends {
            [append] if !pipelined && append.is_plain() => {
                vec![fast_path::append_one(connection, &self.writer.db, append).await?]
            }
            [append] if !pipelined || !append.batchable => {
                match append.record(connection, &self.writer.db, &mut vec![], false, false).await {
                    // Whether what was recorded before is on disk, the careful way sees to.
                    Ok(written) => vec![Some(written).filter(|written| !written.replayed)],
                    Err(Failed::Refused(error)) => return Ok(vec![Reply::Refused(error)]),
                    Err(Failed::Broken(error)) => return Err(error),
                }
            }
            appends => {
                let appends: Vec<_> = appends.iter().map(|append| &**append).collect();
                fast_path::append_batch(connection, &self.writer.db, &appends, pipelined).await?
            }
        };
        Ok(recorded.into_iter().map(|written| written.map_or(Reply::NotRecorded, Reply::Recorded)).collect())
    }
}

fn unavailable(why: &str) -> Reply {
    Reply::Refused(StoreError::Unavailable(why.into()))
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.writer.state();
        state.busy -= 1;
        if self.task {
            // Their places are gone, and they notice.
            let lost = take(&mut state.waiting);
            drop(state);
            drop(lost);
            return;
        }
        // The caller that called at once may come again.
        state.expected = state.waiting.len() + 1;
        if !state.waiting.is_empty() && state.busy == 0 {
            state.busy += 1;
            drop(state);
            Self { writer: self.writer.clone(), runtime: self.runtime.clone(), task: false }.follow();
        }
    }
}

/// The right to wait for the disk.
struct Flush {
    writer: Arc<Writer>,
    over: bool,
}

impl Flush {
    /// Those who wait now, and the last event of theirs; none, and it is over.
    fn waiting(&mut self) -> Option<(Uuid, Vec<Answer>)> {
        let mut state = self.writer.state();
        self.over = state.unflushed.is_empty();
        state.flushing -= usize::from(self.over);
        let last = state.last.take().filter(|_| !self.over)?.1;
        Some((last, take(&mut state.unflushed)))
    }

    /// Flush after flush, until no append waits for one. One is enough for all that was recorded before it began. The server may
    /// have crashed since, and have lost what was not on disk: then a flush says nothing of it.
    async fn run(mut self) {
        while let Some((last, waiting)) = self.waiting() {
            let start = Instant::now();
            let flushed = match Dedicated::free(&self.writer.connections).await {
                Ok(mut connection) => {
                    let server = connection.server();
                    let flushed = fast_path::flush(&mut connection, &self.writer.db, last).await;
                    if flushed.is_ok() {
                        connection.keep();
                    }
                    flushed.is_ok_and(|there| there).then_some(server)
                }
                Err(_) => None,
            };
            if let Some(server) = flushed {
                self.writer.recorded(server, waiting.iter().map(|(_, reply)| reply));
                self.writer.tell(start, waiting);
            } else {
                self.writer.tell(start, waiting.into_iter().map(|(caller, _)| (caller, Reply::Lost)));
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
        let mut state = self.writer.state();
        state.flushing -= 1;
        let lost = take(&mut state.unflushed);
        drop(state);
        drop(lost);
    }
}
