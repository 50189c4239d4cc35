//! Group commit: appends that wait at the same moment share one call, one lock and one flush.
//!
//! An append that arrives while no call is open makes its own call at once, in one round trip. An append that arrives
//! during a call waits in a queue. All queued appends are the next batch, together with those of the callers that the
//! last batch has answered, if they append again within a small part of the time it took. So batches grow with the
//! load. An append that a call does not record is repeated by its caller alone, so it never affects its neighbours.

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
    append::{AppendError, Checked},
    batch::{BATCH_APPENDS, QueuedAppend, Reply, take_batch},
    connections::{Connections, Dedicated},
    db::Db,
    error, fast_path,
    notify::Notify,
};

/// With so many appends in the queue, a second call is made during the first: the server reads it while it flushes the
/// first.
const SECOND_CALL: usize = 64;

/// How many flushes may run at once. What is recorded before the server begins a flush is flushed with it.
const FLUSHES: usize = 4;

/// For how many calls after a repeated append the event ids are looked up first. A repeated id fails a call for all
/// appends that share it; the look-up costs a round trip.
const ID_CHECKS: u32 = 64;

/// A call waits for the callers that the last one has answered for at most this part of the time the last one took, and
/// no longer than a millisecond.
const WAIT_SHARE: u32 = 16;
const LONGEST_WAIT: Duration = Duration::from_millis(1);

/// When readers may see an append. An acknowledged append is on disk in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After it is on disk.
    #[default]
    Strict,
    /// Perhaps shortly before it is on disk: the server records the next batch while it flushes one. If the server
    /// crashes in between, an append that was not acknowledged may be lost although a reader has seen it. Read models
    /// and checkpoints in the same database are never ahead of the log; an effect outside of it (an e-mail, a message
    /// to a broker) may be. This is faster where a flush takes long and many callers append at once.
    Pipelined,
}

/// The queue of appends, and the calls that record them.
pub(crate) struct Writer {
    db: Arc<Db>,
    connections: Arc<Connections>,
    notify: Arc<Notify>,
    queue: Mutex<Queue>,
    /// How many appends may wait.
    queue_limit: usize,
    durability: Durability,
    /// How many calls may be open.
    max_calls: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<QueuedAppend>,
    /// How many calls are open.
    open_calls: usize,
    /// How many appends will wait if every caller that was answered appends again.
    expected_callers: usize,
    /// How long the last batch took until it was on disk.
    last_duration: Duration,
    /// Replies to send once everything recorded so far is on disk.
    unflushed: Vec<CallerReply>,
    /// The position and the id of the last event of those.
    last: Option<(Position, Uuid)>,
    /// How many flushes are open.
    flushing: usize,
    /// For how many more calls the event ids are looked up first.
    checks_ids: u32,
}

/// A reply, and the channel to the caller that waits for it.
type CallerReply = (oneshot::Sender<Reply>, Reply);

/// How an append is recorded.
enum Admission {
    AtOnce(CallPermit),
    Queued(oneshot::Receiver<Reply>),
}

impl Writer {
    pub(crate) fn new(
        connections: Arc<Connections>,
        notify: Arc<Notify>,
        queue_limit: usize,
        durability: Durability,
        max_calls: usize,
    ) -> Self {
        let db = connections.db.clone();
        Self { db, connections, notify, queue: Mutex::default(), queue_limit, durability, max_calls }
    }

    pub(crate) fn is_pipelined(&self) -> bool {
        self.durability == Durability::Pipelined
    }

    fn lock_queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that can panic happens while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no append is queued, in a call, or waiting for the disk.
    pub(crate) fn is_idle(&self) -> bool {
        let queue = self.lock_queue();
        queue.open_calls == 0 && queue.flushing == 0 && queue.waiting.is_empty() && queue.unflushed.is_empty()
    }

    /// Appends at once if no call is open, else with the next batch.
    pub(crate) async fn append(self: &Arc<Self>, append: &Arc<Checked>) -> Reply {
        match self.admit(append) {
            Ok(Admission::AtOnce(permit)) => {
                let (server, mut replies) = permit.call(std::slice::from_ref(append), false).await;
                self.note_recorded(server, &replies);
                replies.pop().unwrap_or(Reply::NotRecorded)
            }
            // The channel closes without a reply if the runtime of the batch ends during it.
            Ok(Admission::Queued(reply)) => reply.await.unwrap_or(Reply::Lost),
            Err(full) => Reply::Refused(full),
        }
    }

    fn admit(self: &Arc<Self>, append: &Arc<Checked>) -> Result<Admission, StoreError> {
        // Before a call is counted, because this panics outside of a runtime.
        let runtime = Handle::current();
        let mut queue = self.lock_queue();
        if queue.open_calls == 0 && queue.waiting.is_empty() && queue.expected_callers <= 1 {
            queue.open_calls += 1;
            drop(queue);
            return Ok(Admission::AtOnce(CallPermit { writer: self.clone(), runtime, task: false }));
        }
        if queue.waiting.len() >= self.queue_limit {
            return Err(StoreError::Busy(format!("{} appends are waiting already", self.queue_limit).into()));
        }
        let (reply, answer) = oneshot::channel();
        queue.waiting.push_back(QueuedAppend { append: append.clone(), reply });
        let free = queue.open_calls == 0 || (queue.open_calls < self.max_calls && queue.waiting.len() >= SECOND_CALL);
        queue.open_calls += usize::from(free);
        drop(queue);
        if free {
            CallPermit { writer: self.clone(), runtime, task: false }.spawn();
        }
        Ok(Admission::Queued(answer))
    }

    /// Notes what was recorded on a server, whether or not the callers still wait.
    fn note_recorded<'a>(&self, server: u64, replies: impl IntoIterator<Item = &'a Reply>) {
        let last = replies.into_iter().filter_map(|reply| match reply {
            Reply::Recorded(written) => Some(written.last),
            _ => None,
        });
        if let Some(last) = last.max() {
            self.notify.note_recorded(server, last);
        }
    }

    /// Sends the replies of a call or a flush that began at `since`. A caller that was cancelled gets none.
    fn send_replies(&self, since: Instant, replies: impl IntoIterator<Item = CallerReply>) {
        let replies: Vec<_> = replies.into_iter().collect();
        let mut queue = self.lock_queue();
        queue.expected_callers = queue.waiting.len() + replies.len();
        queue.last_duration = since.elapsed();
        drop(queue);
        for (caller, reply) in replies {
            let _ = caller.send(reply);
        }
    }
}

/// The permit to make calls. When it is dropped, another one continues with the appends that still wait.
struct CallPermit {
    writer: Arc<Writer>,
    runtime: Handle,
    /// Whether this runs as a task of its own. Such a task is dropped early only if its runtime ends.
    task: bool,
}

impl CallPermit {
    /// Records batch after batch until no append waits. Runs as a task, so that a cancelled caller does not end other
    /// appends.
    fn spawn(mut self) {
        self.task = true;
        let runtime = self.runtime.clone();
        runtime.spawn(self.run());
    }

    async fn run(mut self) {
        loop {
            self.await_callers().await;
            let batch = take_batch(&mut self.writer.lock_queue().waiting);
            if batch.is_empty() {
                break;
            }
            let (appends, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|one| (one.append, one.reply)).unzip();
            let start = Instant::now();
            let pipelined = self.writer.is_pipelined();
            let (server, replies) = self.call(&appends, pipelined).await;
            if !pipelined {
                self.writer.note_recorded(server, &replies);
            }
            let last = appends.iter().zip(&replies).filter_map(|(append, reply)| reply.last(append));
            let last = last.max();
            let replies = callers.into_iter().zip(replies);
            if let (true, Some(last)) = (pipelined, last) {
                self.flush(last, replies);
            } else {
                self.writer.send_replies(start, replies);
            }
        }
        self.task = false;
    }

    /// Waits for the callers that the last batch has answered, so that their next appends join this batch. Otherwise
    /// they and the callers that wait now would alternate in batches of half the size. The wait is short, since they
    /// may have nothing more to append.
    async fn await_callers(&self) {
        let start = Instant::now();
        loop {
            yield_now().await;
            let queue = self.writer.lock_queue();
            let all = queue.waiting.len() >= queue.expected_callers.min(BATCH_APPENDS);
            if all || start.elapsed() > (queue.last_duration / WAIT_SHARE).min(LONGEST_WAIT) {
                return;
            }
        }
    }

    /// Sends the replies once the log is on disk up to the last event. The next call need not wait for that.
    fn flush(&self, last: (Position, Uuid), replies: impl Iterator<Item = CallerReply>) {
        let mut queue = self.writer.lock_queue();
        queue.unflushed.extend(replies);
        queue.last = queue.last.max(Some(last));
        if queue.flushing < FLUSHES {
            queue.flushing += 1;
            drop(queue);
            self.runtime.spawn(FlushTask { writer: self.writer.clone(), is_over: false }.run());
        }
    }

    /// Records these appends by one call. Returns the server, and a reply for each append. With `pipelined`, the call
    /// does not wait for the disk.
    async fn call(&self, appends: &[Arc<Checked>], pipelined: bool) -> (u64, Vec<Reply>) {
        let mut connection = match Dedicated::acquire(&self.writer.connections).await {
            Ok(connection) => connection,
            Err(error) => {
                let down = error::is_unreachable(&error).then(|| error.to_string());
                let reply = || down.as_ref().map_or(Reply::NotRecorded, |why| unavailable(why));
                return (0, appends.iter().map(|_| reply()).collect());
            }
        };
        let server = connection.server();
        let checks_ids = {
            let mut queue = self.writer.lock_queue();
            let checks_ids = queue.checks_ids > 0 && appends.len() > 1;
            queue.checks_ids -= u32::from(checks_ids);
            checks_ids
        };
        // If this future is dropped, the connection is closed, so that the next call gets an idle one.
        let replies = match checks_ids {
            true => self.call_unrecorded(&mut connection, appends, pipelined).await,
            false => match self.call_once(&mut connection, appends, pipelined).await {
                Err(error) if appends.len() > 1 && error::has_code(&error, &["23505"]) => {
                    self.call_unrecorded(&mut connection, appends, pipelined).await
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
                let reply = if error::is_lost(&error) {
                    || Reply::Lost
                } else if error::has_code(&error, &["55P03"]) {
                    // Another session has held the append lock for too long. A repeated append would only wait again.
                    || Reply::Refused(StoreError::Busy("another session holds the append lock for too long".into()))
                } else {
                    || Reply::NotRecorded
                };
                if error::is_unsuitable_session(&error) {
                    // The next session may have suitable defaults.
                    connection.close();
                } else if error::is_broken(&error) {
                    self.writer.db.head.note_broken();
                } else {
                    connection.keep();
                }
                (server, appends.iter().map(|_| reply()).collect())
            }
        }
    }

    /// Like [`call_once`](Self::call_once) for the appends of which no event is recorded yet, so that a repeated append
    /// does not fail the call for its neighbours.
    async fn call_unrecorded(
        &self,
        connection: &mut Dedicated,
        appends: &[Arc<Checked>],
        pipelined: bool,
    ) -> Result<Vec<Reply>, sqlx::Error> {
        let ids = appends.iter().flat_map(|append| append.append.events().map(|(_, event)| event.id));
        let taken = fast_path::recorded_ids(connection, &self.writer.db, ids.collect()).await?;
        let is_taken = |append: &Checked| append.append.events().any(|(_, event)| taken.contains(&event.id));
        if !taken.is_empty() {
            self.writer.lock_queue().checks_ids = ID_CHECKS;
        }
        let others: Vec<_> = appends.iter().filter(|append| !is_taken(append)).cloned().collect();
        let mut replies = match &others[..] {
            [] => vec![],
            others => self.call_once(connection, others, pipelined).await?,
        }
        .into_iter();
        let reply = |append: &Arc<Checked>| match is_taken(append) {
            true => Reply::RepeatsIds,
            false => replies.next().unwrap_or(Reply::NotRecorded),
        };
        Ok(appends.iter().map(reply).collect())
    }

    /// Makes one call, by the function that is fastest for these appends.
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
                    // A replayed append may not be on disk yet; the caller's own attempt waits for that.
                    Ok(written) => vec![Some(written).filter(|written| !written.replayed)],
                    Err(AppendError::Refused(error)) => return Ok(vec![Reply::Refused(error)]),
                    Err(AppendError::Broken(error)) => return Err(error),
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

impl Drop for CallPermit {
    fn drop(&mut self) {
        let mut queue = self.writer.lock_queue();
        queue.open_calls -= 1;
        if self.task {
            // Their channels close, so their callers get `Reply::Lost`.
            let lost = take(&mut queue.waiting);
            drop(queue);
            drop(lost);
            return;
        }
        // The caller that called at once may append again.
        queue.expected_callers = queue.waiting.len() + 1;
        if !queue.waiting.is_empty() && queue.open_calls == 0 {
            queue.open_calls += 1;
            drop(queue);
            Self { writer: self.writer.clone(), runtime: self.runtime.clone(), task: false }.spawn();
        }
    }
}

/// A task that waits for the disk.
struct FlushTask {
    writer: Arc<Writer>,
    is_over: bool,
}

impl FlushTask {
    /// Takes the replies that wait, and the id of the last event among them. Without any, the task ends.
    fn waiting(&mut self) -> Option<(Uuid, Vec<CallerReply>)> {
        let mut queue = self.writer.lock_queue();
        self.is_over = queue.unflushed.is_empty();
        queue.flushing -= usize::from(self.is_over);
        let last = queue.last.take().filter(|_| !self.is_over)?.1;
        Some((last, take(&mut queue.unflushed)))
    }

    /// Flushes until no reply waits for it. One flush covers everything recorded before it began. The flush also checks
    /// that the last event is recorded, since the server may have crashed meanwhile and lost it.
    async fn run(mut self) {
        while let Some((last, waiting)) = self.waiting() {
            let start = Instant::now();
            let flushed = match Dedicated::acquire(&self.writer.connections).await {
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
                self.writer.note_recorded(server, waiting.iter().map(|(_, reply)| reply));
                self.writer.send_replies(start, waiting);
            } else {
                self.writer.send_replies(start, waiting.into_iter().map(|(caller, _)| (caller, Reply::Lost)));
            }
        }
    }
}

impl Drop for FlushTask {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // The runtime has ended: the channels close, so the callers get `Reply::Lost`.
        let mut queue = self.writer.lock_queue();
        queue.flushing -= 1;
        let lost = take(&mut queue.unflushed);
        drop(queue);
        drop(lost);
    }
}
