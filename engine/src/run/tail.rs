//! The one reader of a node: it follows the end of the log for all processors that the node runs.

use std::{
    collections::VecDeque,
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eventstore_core::{Events, Position, Query, Read, Store, StoreError, engine::Brief};
use futures::TryStreamExt;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use crate::{failure::Failure, run::page::DecodedPage};

/// How many events are read at a time.
const PAGE: usize = 1_000;
/// How many pages and bytes of the end of the log are kept in memory. A shard that is further behind reads for itself.
const KEPT_PAGES: usize = 64;
const KEPT_BYTES: usize = 32 << 20;
/// The pause after a wake-up that brought nothing; twice as long after each further one.
const SHORTEST_QUIET: Duration = Duration::from_millis(1);
const LONGEST_QUIET: Duration = Duration::from_millis(64);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The end of the log, in memory.
pub(crate) struct Tail {
    ring: Mutex<Ring>,
    state: watch::Sender<State>,
    /// Woken when a caller has moved the clock, or wants to know at once.
    wake: Notify,
}

struct Ring {
    /// Each begins where the one before ends.
    pages: VecDeque<Arc<DecodedPage>>,
    bytes: usize,
}

#[derive(Clone, Default)]
pub struct State {
    /// Read up to here. None before the first read, and after the log has lost its end.
    pub end: Option<Position>,
    /// Why the log could not be read further.
    failed: Option<Arc<dyn Error + Send + Sync>>,
    /// How often the log was seen to have lost its end.
    lost: u64,
}

/// What the node has in memory after a position.
pub enum After {
    /// A page that begins at the position, or before it and ends after it.
    Here(Arc<DecodedPage>),
    /// The log ends there, as far as the node has read.
    NotYet,
    /// The events are not, or no longer, in memory.
    Gone,
}

impl Tail {
    pub fn new() -> Self {
        let ring = Mutex::new(Ring { pages: VecDeque::new(), bytes: 0 });
        Self { ring, state: watch::Sender::new(State::default()), wake: Notify::new() }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn after(&self, position: Position) -> After {
        let ring = self.ring();
        let place = ring.pages.partition_point(|page| page.until <= position);
        let (mut here, mut events) = (vec![], 0);
        match ring.pages.get(place) {
            Some(page) if page.after <= position => {
                // Join all cached pages after the position, up to `PAGE` events. With one flush for each short page, a
                // processor that is behind would stay behind.
                here.extend(ring.pages.range(place..).take_while(|page| {
                    events += page.events.len();
                    events <= PAGE
                }));
                if here.len() < 2 {
                    return After::Here(page.clone());
                }
            }
            Some(_) => return After::Gone,
            None if self.state.borrow().end.is_some_and(|end| end <= position) => return After::NotYet,
            None => return After::Gone,
        }
        let here: Vec<_> = here.into_iter().cloned().collect();
        drop(ring);
        After::Here(Arc::new(DecodedPage::joined(&here)))
    }

    /// Wakes all shards that wait.
    pub(crate) fn wake_waiters(&self) {
        self.wake.notify_waiters();
    }

    /// Returns when there may be events after a position, or when woken. [`StoreError::Unavailable`] if the log cannot
    /// be read.
    pub async fn wait(&self, position: Position, lost: u64) -> Result<(), Failure> {
        let mut state = self.state.subscribe();
        let there =
            |state: &State| state.failed.is_some() || state.lost != lost || state.end.is_none_or(|end| end > position);
        let there = tokio::select! {
            there = state.wait_for(there) => there,
            () = self.wake.notified() => return Ok(()),
        };
        match there.map(|state| state.failed.clone()) {
            Ok(Some(failed)) => Err(StoreError::Unavailable(failed.into()).into()),
            _ => Ok(()),
        }
    }

    /// Returns how often the log was seen to have lost its end. When that changes, each shard must read its checkpoint
    /// again.
    pub fn lost(&self) -> u64 {
        self.state.borrow().lost
    }

    /// Returns the position up to which the log was read.
    pub fn end(&self) -> Position {
        self.state.borrow().end.unwrap_or_default()
    }

    /// Reads what matches the query, for ever, from the end of the log at the start.
    pub(crate) async fn follow(&self, store: Store, query: Query) {
        let mut pause = Duration::from_millis(20);
        let (mut last, mut quiet, mut woken) = (Position(0), SHORTEST_QUIET, false);
        let mut size = PAGE;
        loop {
            let step = self.step(&store, &query, size).await;
            // Fewer events may fit into what the server allows a statement; after a success, read a quarter more each
            // time.
            size = if step.is_ok() { (size + size / 4 + 1).min(PAGE) } else { (size / 2).max(1) };
            match step {
                Ok(Some(end)) => {
                    pause = Duration::from_millis(20);
                    if end > last {
                        // After new events, more may have come that no notification has told of yet.
                        (last, quiet, woken) = (end, SHORTEST_QUIET, false);
                        continue;
                    }
                    if woken {
                        // The wake-up brought nothing. Where the log has lost its end, the store may say for ever that
                        // there is more.
                        sleep(quiet).await;
                        quiet = (quiet * 2).min(LONGEST_QUIET);
                    }
                    store.as_ref().appended(end).await;
                    woken = true;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = %Brief(&error), "the log cannot be read");
                    let error: Arc<dyn Error + Send + Sync> = Arc::new(error);
                    self.state.send_modify(|state| state.failed = Some(error));
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Forgets what was read, because the log has lost its end; each shard must read its checkpoint again.
    pub(crate) fn forget(&self) {
        *self.ring() = Ring { pages: VecDeque::new(), bytes: 0 };
        self.state.send_modify(|state| (state.end, state.lost) = (None, state.lost + 1));
    }

    /// Reads one page. Returns the end of the log, if the page reaches it. [`StoreError::Damaged`] if the log has lost
    /// its end.
    async fn step(&self, store: &Store, query: &Query, size: usize) -> Result<Option<Position>, StoreError> {
        let store = store.as_ref();
        let Some(after) = self.state.borrow().end else {
            let last = Read { query: Query::all(), limit: Some(1), backwards: true, ..Read::default() };
            let head = store.read(last).await?.head;
            self.state.send_modify(|state| (state.end, state.failed) = (Some(head), None));
            return Ok(Some(head));
        };
        let read = Read { query: query.clone(), after, limit: Some(size), ..Read::default() };
        let Events { head, events, .. } = store.read(read).await?;
        if head < after {
            self.forget();
            let reason = format!("it ends at position {head}, and was read up to {after} before: it has lost its end");
            return Err(StoreError::Damaged(reason.into()));
        }
        let events: Vec<_> = events.try_collect().await?;
        let full = events.len() == size;
        let page = DecodedPage::read(store, after, head, full, events).await?;
        let until = page.until;
        if until > after {
            self.push(Arc::new(page));
        }
        self.state.send_if_modified(|state| {
            let news = until > after || state.failed.is_some();
            (state.end, state.failed) = (Some(until), None);
            news
        });
        Ok((!full).then_some(until))
    }

    fn push(&self, page: Arc<DecodedPage>) {
        let mut ring = self.ring();
        ring.bytes += page.bytes();
        ring.pages.push_back(page);
        while ring.pages.len() > KEPT_PAGES || (ring.bytes > KEPT_BYTES && ring.pages.len() > 1) {
            let Some(old) = ring.pages.pop_front() else { return };
            ring.bytes -= old.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use eventstore_core::{NewEvent, Raw, Recorded, StreamId, Timestamp, Version};
    use uuid::Uuid;

    use super::*;

    fn page(after: u64, until: u64) -> Arc<DecodedPage> {
        let event = |position| -> Recorded<_> {
            let data = Raw { name: "happened".into(), tags: vec![], body: vec![] };
            let event =
                NewEvent { id: Uuid::now_v7(), schema: 1, occurred_at: None, metadata: Default::default(), data };
            event.recorded(StreamId::new("a", "b"), Version(position), Position(position), Timestamp::from_micros(0))
        };
        let events: Vec<_> = (after + 1..=until).map(event).collect();
        let last = events.last().map(|event| event.id);
        Arc::new(DecodedPage::new(Position(after), Position(until), last, events))
    }

    #[test]
    fn who_is_behind_is_given_what_has_come_since_in_one_piece() {
        let tail = Tail::new();
        for (after, until) in [(10, 12), (12, 13), (13, 20), (20, 900), (900, 1_900), (1_900, 1_901)] {
            tail.push(page(after, until));
        }
        let here = |position| match tail.after(Position(position)) {
            After::Here(page) => page,
            _ => panic!("it is in memory"),
        };
        let place = |page: &DecodedPage| (page.after.0, page.until.0, page.events.len());
        // As many events as one read returns at most.
        assert_eq!(place(&here(10)), (10, 900, 890));
        assert_eq!(here(10).last, here(10).events.last().map(|event| event.id));
        assert!(here(10).events.is_sorted_by_key(|event| event.position));
        // In the middle of a page.
        assert_eq!(place(&here(15)), (13, 900, 887));
        // A page alone is the page itself, which all shards share: it is decoded once.
        assert_eq!(place(&here(900)), (900, 1_900, 1_000));
        assert!(Arc::ptr_eq(&here(900), &here(1_000)) && Arc::ptr_eq(&here(1_900), &here(1_900)));
        assert!(matches!(tail.after(Position(9)), After::Gone));
    }
}
