//! Paging of a read: [`Events::paged`], which reads one page ahead of its caller.

use std::task::{Context, Poll, ready};

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::{runtime::Handle, task::JoinSet};

use crate::{
    contract::{Events, Read},
    error::StoreError,
    event::{Raw, Recorded},
    stream::{Position, Version},
};

impl Events {
    /// Returns events that are read in pages: `first` is the first page, `fetch` reads a further one. `read` is the
    /// request of the first page, and its limit the size of a page; `limit` is the number of events that the caller
    /// wants in all.
    ///
    /// While the caller processes a page, a task of its own fetches the next one: the task needs no poll by the caller,
    /// so it never keeps a connection from it. It fetches one page ahead, and no more.
    pub fn paged<F, P>(head: Position, read: Read, limit: Option<usize>, first: Vec<Recorded<Raw>>, fetch: F) -> Self
    where
        F: Fn(Read) -> P + Send + 'static,
        P: Future<Output = Result<Vec<Recorded<Raw>>, StoreError>> + Send + 'static,
    {
        let page = read.limit.unwrap_or(usize::MAX);
        let until = Some(read.until.map_or(head, |until| until.min(head)));
        let next = Pages { read: Read { until, ..read }, left: limit.unwrap_or(usize::MAX), page };
        let ahead = Ahead { next: next.after(&first), fetch, task: JoinSet::new() };
        let mut pages = stream::try_unfold((Some(first), ahead), |(first, mut ahead)| async move {
            let events = match first {
                Some(first) => Some(first),
                None => ahead.page().await?,
            };
            ahead.start();
            Ok::<_, StoreError>(events.map(|events| (events.into_iter(), (None, ahead))))
        })
        .boxed();
        let mut page = vec![].into_iter();
        let next = move |context: &mut Context<'_>| loop {
            if let Some(event) = page.next() {
                return Poll::Ready(Some(Ok(event)));
            }
            match ready!(pages.try_poll_next_unpin(context)?) {
                Some(next) => page = next,
                None => return Poll::Ready(None),
            }
        };
        let events = stream::poll_fn(next).boxed();
        Self { head, events, asked: None }
    }
}

/// The page that is fetched before the caller asks for it. Dropping this stops the task.
struct Ahead<F> {
    /// The request of the next page, if there may be one.
    next: Option<Pages>,
    fetch: F,
    task: JoinSet<Result<Vec<Recorded<Raw>>, StoreError>>,
}

impl<F, P> Ahead<F>
where
    F: Fn(Read) -> P,
    P: Future<Output = Result<Vec<Recorded<Raw>>, StoreError>> + Send + 'static,
{
    fn start(&mut self) {
        if let (Some(next), Ok(runtime)) = (&self.next, Handle::try_current()) {
            self.task.spawn_on((self.fetch)(next.read.clone()), &runtime);
        }
    }

    async fn page(&mut self) -> Result<Option<Vec<Recorded<Raw>>>, StoreError> {
        let Some(next) = self.next.take() else { return Ok(None) };
        let fetched = match self.task.try_join_next() {
            // A page that failed while no caller waited, perhaps for want of a connection, is fetched again below.
            Some(fetched) => fetched.ok().and_then(Result::ok),
            None => match self.task.join_next().await {
                Some(Ok(fetched)) => Some(fetched?),
                _ => None,
            },
        };
        let events = match fetched {
            Some(events) => events,
            None => (self.fetch)(next.read.clone()).await?,
        };
        self.next = next.after(&events);
        Ok(Some(events))
    }
}

/// The largest page, in events.
const LARGE_PAGE: usize = 4_000;
/// The largest page, in bytes of bodies, by the average size of the bodies of the page before.
const PAGE_BYTES: usize = 8 << 20;

/// The next page to be read.
struct Pages {
    read: Read,
    /// The number of events that the caller still wants.
    left: usize,
    page: usize,
}

impl Pages {
    /// Returns the page after these events, if there may be one.
    fn after(mut self, events: &[Recorded<Raw>]) -> Option<Self> {
        let last = events.last()?;
        self.left -= events.len();
        if self.left == 0 || events.len() < self.read.limit? {
            return None;
        }
        // A caller that reads on reads many events: pages grow, so that fewer requests are sent.
        self.page = self.page.saturating_mul(2).min(LARGE_PAGE).max(self.page);
        // Large events are read in small pages, so that memory stays bounded.
        let bytes: usize = events.iter().map(|event| event.data.body.len()).sum();
        let fit = events.len().saturating_mul(PAGE_BYTES) / bytes.max(1);
        self.read.limit = Some(self.left.min(self.page).min(fit.max(1)));
        // By version, too, where there is one: the index of a stream is ordered by it.
        let one_stream = self.read.query.stream().is_some();
        if self.read.backwards {
            self.read.until = Some(Position(last.position.0.saturating_sub(1)));
            self.read.until_version = one_stream.then_some(Version(last.version.0.saturating_sub(1)));
        } else {
            // A bare event may have no position; then the version bounds the page.
            self.read.after = self.read.after.max(last.position);
            self.read.after_version = if one_stream { last.version } else { Version(0) };
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use tokio::task::yield_now;
    use uuid::Uuid;

    use super::*;
    use crate::{contract::Query, event::NewEvent, metadata::Metadata, stream::StreamId, timestamp::Timestamp};

    fn log(after: Position, until: u64, limit: usize) -> Vec<Recorded<Raw>> {
        let event = |position| {
            let data = Raw { name: "x".into(), tags: vec![], body: vec![] };
            let new = NewEvent { id: Uuid::nil(), schema: 1, occurred_at: None, metadata: Metadata::default(), data };
            new.recorded(StreamId::new("a", "b"), Version(position), Position(position), Timestamp::MIN)
        };
        (after.0 + 1..=until).take(limit).map(event).collect()
    }

    /// Returns 35 events in pages of 10, 20 and 5, and two counts: of pages requested, and of pages being fetched.
    fn paged(fails: bool) -> (Events, Arc<[AtomicUsize; 2]>) {
        let counts: Arc<[AtomicUsize; 2]> = Arc::default();
        let counted = counts.clone();
        let fetch = move |read: Read| {
            let counts = counted.clone();
            let asked = counts[0].fetch_add(1, SeqCst);
            async move {
                counts[1].fetch_add(1, SeqCst);
                yield_now().await;
                counts[1].fetch_sub(1, SeqCst);
                if fails && asked == 0 {
                    return Err(StoreError::Unavailable("no connection".into()));
                }
                Ok(log(read.after, 35, read.limit.unwrap_or(usize::MAX)))
            }
        };
        let read = Read { query: Query::all(), limit: Some(10), ..Read::default() };
        (Events::paged(Position(35), read, None, log(Position(0), 35, 10), fetch), counts)
    }

    /// Returns when the task that fetches a page is done.
    async fn settle() {
        for _ in 0..10 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn s10_one_page_is_fetched_ahead_and_no_more() {
        let (Events { mut events, .. }, counts) = paged(false);
        assert_eq!(counts[0].load(SeqCst), 0, "the caller has asked for no page yet");
        for (asked, taken) in [(1, 10), (2, 20), (2, 5)] {
            for _ in 0..taken {
                assert!(events.try_next().await.expect("an event").is_some());
                settle().await;
                assert_eq!([0, 1].map(|n| counts[n].load(SeqCst)), [asked, 0]);
            }
        }
        assert!(events.try_next().await.expect("the end").is_none());
    }

    #[tokio::test]
    async fn a_page_that_could_not_be_fetched_ahead_is_fetched_when_it_is_wanted() {
        let (Events { mut events, .. }, counts) = paged(true);
        events.try_next().await.expect("an event");
        settle().await;
        assert_eq!(events.count().await, 34);
        assert_eq!(counts[0].load(SeqCst), 3);
        // A caller that waits for the page gets its error.
        let (Events { events, .. }, _) = paged(true);
        assert!(matches!(events.try_collect::<Vec<_>>().await, Err(StoreError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a8_a_dropped_read_fetches_nothing_more() {
        let (Events { mut events, .. }, counts) = paged(false);
        events.try_next().await.expect("an event");
        let kept = Arc::downgrade(&counts);
        drop((events, counts));
        while kept.upgrade().is_some() {
            yield_now().await;
        }
    }
}
