//! Hands events to something outside of the store.

use std::{ops::Range, panic::AssertUnwindSafe};

use async_trait::async_trait;
use eventstore_core::{BoxError, Event, EventStore, Query, Recorded, StartFrom, Transaction};
use futures::FutureExt;

use crate::{
    failure::Failure,
    record::{queue::Queue, reads::Reads},
    run::{
        keyed_events::KeyedEvents,
        page::DecodedPage,
        processor::{Begins, Part, Processor, Remembered},
    },
};

/// Hands events to something outside of the store: a search index, another service, a mailbox. Works on every store.
///
/// Each event is handed over at least once, and before the checkpoint passes it. After a crash, or when a batch fails,
/// some events are handed over again. Their ids stay the same, so a receiver that remembers `event.id` counts each
/// once. No event is handed over before it is safe from a crash of the database.
///
/// A subscription that runs for the first time on a log that is not empty must say where it begins: see
/// [`FROM`](Self::FROM).
///
/// ```
/// use std::sync::Mutex;
/// use eventstore::{BoxError, prelude::*};
/// # #[derive(Event, Clone)]
/// # enum AccountEvent { Deposited { amount: i64 } }
///
/// /// Stands for a client of something outside.
/// struct Index(Mutex<Vec<String>>);
///
/// impl Subscription for Index {
///     const NAME: &'static str = "index";
///     type Event = AccountEvent;
///
///     async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
///         let documents = events.iter().map(|event| format!("{}: {}", event.id, event.stream));
///         self.0.lock().map_err(|_| "a client that panicked")?.extend(documents);
///         Ok(())
///     }
/// }
/// # let _ = Runner::subscription::<Index>;
/// ```
pub trait Subscription: Send + Sync + 'static {
    /// The name of the checkpoint: 1 to 256 bytes, without control characters, `@`, and `~shadow` at the end.
    const NAME: &'static str;
    /// The events that it is handed.
    type Event: Event;
    /// Where it begins when it runs for the first time, unless the runner says so:
    /// [`Runner::from_now`](crate::Runner::from_now). If neither does and the log is not empty, it stops with
    /// [`StoreError::NoStart`](eventstore_core::StoreError::NoStart) and nothing is handed over. Ignored once it has a
    /// checkpoint.
    const FROM: Option<StartFrom> = None;

    /// Hands over events of one batch, in the order of the log. If it fails, fewer are tried, down to the event to
    /// blame, which is tried again and then parked with those behind it. An error that is
    /// [`Unavailable`](eventstore_core::Unavailable), or has one below it, blames no event: all wait, and the same
    /// events are tried again until they are handed over.
    fn handle(&self, events: &[&Recorded<Self::Event>]) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Returns the key of an event: events of one key are handed over in order, and wait if one of them cannot be. By
    /// default the stream. Must be pure, because the key decides the shard.
    fn key(event: &Recorded<Self::Event>) -> String {
        event.stream.to_string()
    }
}

/// Runs a subscription.
pub struct Delivered<S>(pub S);

#[async_trait]
impl<S: Subscription> Processor for Delivered<S> {
    fn name(&self) -> String {
        S::NAME.into()
    }

    fn query(&self) -> Query {
        Query::names(S::Event::NAMES)
    }

    fn reads(&self) -> Reads {
        Reads::of::<S::Event>()
    }

    fn begins(&self) -> Begins {
        Begins::AsSaid(S::FROM)
    }

    async fn prepare(&self, _: &dyn EventStore) -> Result<(), Failure> {
        Ok(())
    }

    async fn deliver(&self, store: &dyn EventStore, part: &Part<'_>) -> Result<(), Failure> {
        let decoded = part.page.decoded::<S::Event>();
        let keyed = KeyedEvents::of(part, &decoded, S::key)?;
        let Some(last) = keyed.events.last() else { return Ok(()) };
        // An event that a crash of the database could undo must not be known outside of it.
        store.flushed(last.id).await?;
        let handled = AssertUnwindSafe(self.0.handle(&keyed.events)).catch_unwind().await;
        let handled = handled.map_err(|panic| Failure::panicked(&*panic));
        let handled = handled.and_then(|handled| handled.map_err(Failure::theirs));
        handled.map_err(|failed| keyed.blame(part, failed))
    }

    fn decode(&self, page: &DecodedPage, places: Range<usize>) {
        page.decoded::<S::Event>().decode(page, places);
    }

    async fn process(
        &self,
        _: &mut dyn Transaction,
        part: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        let decoded = part.page.decoded::<S::Event>();
        Ok(KeyedEvents::of(part, &decoded, S::key)?.waiting)
    }
}
