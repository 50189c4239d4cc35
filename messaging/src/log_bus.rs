//! A bus that is a log: in memory, in an SQLite file, or in PostgreSQL.
//!
//! A topic is a category, a key is a stream, a message is an event with its id. The log records an id once, so
//! publishing again does nothing. A topic has one partition for readers, whose offsets are positions.

use std::{collections::HashSet, ops::Range, time::Duration};

use async_trait::async_trait;
use eventstore_core::{
    Append, EventStore, Item, NewEvent, Position, Query, Raw, Read, Recorded, Store, StoreError, StreamId, limits,
};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use crate::{
    bus::{
        Abilities, Bus, BusError, Delivery, Kind, Last, Offset, Order, Outcome, Publisher, Source, Start, check_topic,
    },
    envelope::{Envelope, RELAYED},
};

/// How many events one append has, and about how many bytes.
const APPEND_EVENTS: usize = 4_000;
const APPEND_BYTES: usize = 4 << 20;
/// How many messages are read at once.
const PAGE: usize = 4_000;
/// After how many bytes of bodies a page ends.
const PAGE_BYTES: usize = 4 << 20;
/// The most bytes of a message: what fits into an event and its metadata.
const MESSAGE_BYTES: usize = limits::BODY_BYTES;

/// A bus that is a log. Any number of programs use it at once, each through a store of its own:
///
/// | store | for | a message arrives |
/// |---|---|---|
/// | in memory | tests, and services in one process | at once |
/// | an SQLite file | services on one machine | within 250 ms, at once in the same process |
/// | a schema in PostgreSQL | services that share a server | at once |
///
/// The log must be one of its own, with nothing in it but messages.
pub struct LogBus {
    store: Store,
}

impl LogBus {
    /// Returns the bus that keeps its messages in a store.
    pub fn new(store: &Store) -> Self {
        Self { store: store.beneath() }
    }
}

impl From<LogBus> for Bus {
    fn from(bus: LogBus) -> Self {
        Self::new(bus)
    }
}

/// Appends messages that are not recorded yet; each id is recorded once, under the content that came first.
async fn record(store: &Store, topic: &str, messages: &[Envelope]) -> Result<(), StoreError> {
    // Nearly always all of them are new.
    let mut known = HashSet::new();
    loop {
        let mut seen = known.clone();
        let new = messages.iter().map(|message| to_event(topic, message)).filter(|(_, event)| seen.insert(event.id));
        let append = Append::of(new);
        if append.writes.is_empty() {
            return Ok(());
        }
        match store.as_ref().append(append).await {
            Ok(_) => return Ok(()),
            // Some are recorded, perhaps by another publisher since they were looked up.
            Err(StoreError::Duplicate { .. }) => {
                let ids = messages.iter().map(Envelope::event_id).collect();
                known = store.as_ref().recorded(ids).await?.into_iter().map(|event| event.id).collect();
            }
            Err(error) => return Err(error),
        }
    }
}

/// An event and its stream.
pub(crate) type Addressed = (StreamId, NewEvent);

/// Returns the error of the bus for an error of its log.
fn of_store(error: StoreError) -> BusError {
    match error {
        StoreError::Invalid(_) => BusError::Refused(error.into()),
        StoreError::Denied(_) => BusError::Denied(error.into()),
        error => BusError::unavailable(error),
    }
}

fn abilities() -> Abilities {
    Abilities::new(Order::Prefix, Kind::Log).message_bytes(MESSAGE_BYTES)
}

fn topic_query(topic: &str) -> Query {
    Item { category: Some(topic.into()), ..Item::default() }.into()
}

#[async_trait]
impl Publisher for LogBus {
    async fn topic(&self, topic: &str) -> Result<Abilities, BusError> {
        check_topic(topic).map_err(|error| BusError::Refused(error.into()))?;
        Ok(abilities())
    }

    async fn publish(&self, topic: &str, messages: &[Envelope]) -> Vec<Outcome> {
        let mut outcomes = vec![];
        while outcomes.len() < messages.len() {
            let rest = &messages[outcomes.len()..];
            let mut bytes = 0;
            let fits = rest.iter().take(APPEND_EVENTS).take_while(|message| {
                let before = bytes;
                bytes += message.data.len();
                before == 0 || bytes <= APPEND_BYTES
            });
            let batch = &rest[..fits.count()];
            // What the log cannot hold is found before anything is written: so the messages before it are published.
            let fits = |message: &&Envelope| Append::of([to_event(topic, message)]).check().is_ok();
            let (sent, error) = match record(&self.store, topic, batch).await {
                Ok(()) => (batch.len(), None),
                Err(StoreError::Invalid(reason)) => match batch.iter().take_while(fits).count() {
                    // Each of them fits, and all together do not.
                    held if held == batch.len() && held > 1 => {
                        match record(&self.store, topic, &batch[..held / 2]).await {
                            Ok(()) => (held / 2, None),
                            Err(error) => (0, Some(of_store(error))),
                        }
                    }
                    held => match record(&self.store, topic, &batch[..held.min(batch.len() - 1)]).await {
                        Ok(()) => (held.min(batch.len() - 1), Some(BusError::Refused(reason.into()))),
                        Err(error) => (0, Some(of_store(error))),
                    },
                },
                Err(error) => (0, Some(of_store(error))),
            };
            outcomes.extend((0..sent).map(|_| Outcome::Done));
            if let Some(error) = error {
                outcomes.push(Outcome::Failed(error));
                outcomes.resize_with(messages.len(), || Outcome::NotTried);
            }
        }
        outcomes
    }

    async fn last(&self, topic: &str, partitions: Range<u16>) -> Result<Vec<Option<Last>>, BusError> {
        let read = Read { query: topic_query(topic), backwards: true, limit: Some(1), ..Read::default() };
        let last = self.store.as_ref().read(read).await.map_err(of_store)?.events.try_next().await.map_err(of_store)?;
        let last = last.map(|event| {
            let kind = event.data.name.to_string();
            let mut message = Envelope::of_stored(event, &kind);
            Last { relayed: message.extensions.remove(RELAYED).unwrap_or_default(), id: message.id }
        });
        Ok(vec![last; partitions.len()])
    }
}

/// Returns the event that the log keeps of a message.
fn to_event(topic: &str, message: &Envelope) -> Addressed {
    (StreamId::new(topic, &message.key), message.clone().stored(&message.kind, vec![]))
}

#[async_trait]
impl Source for LogBus {
    async fn subscribe(&self, topic: &str, _: &str) -> Result<Abilities, BusError> {
        self.topic(topic).await
    }

    async fn offset(&self, _: &str, _: u16, start: Start) -> Result<Option<Offset>, BusError> {
        let store = self.store.as_ref();
        let position = match start {
            Start::Earliest => return Ok(None),
            Start::Latest => self.store.head().await,
            Start::Since(time) => store.position_at(time - Duration::from_micros(1)).await,
        };
        Ok(event_at(store, position.map_err(of_store)?).await?.map(|event| offset_of(&event)))
    }

    async fn read(
        &self,
        topic: &str,
        _: &str,
        _: u16,
        after: Option<Offset>,
    ) -> Result<BoxStream<'static, Result<Delivery, BusError>>, BusError> {
        let mut from = Position(0);
        if let Some(offset) = after {
            from = to_position(&offset)?;
            // The log may have lost its end, and have other events there by now.
            let event = event_at(self.store.as_ref(), from).await?;
            if event.is_none_or(|event| offset_of(&event) != offset) {
                return Err(BusError::Trimmed { offset });
            }
        }
        let (store, query) = (self.store.clone(), topic_query(topic));
        let pages = stream::try_unfold(from, move |mut after| {
            let (store, query) = (store.clone(), query.clone());
            async move {
                loop {
                    let read = Read { query: query.clone(), after, limit: Some(PAGE), ..Read::default() };
                    let page = store.as_ref().read(read).await.map_err(of_store)?;
                    let head = page.head;
                    let (mut rest, mut events, mut bytes) = (page.events, vec![], 0);
                    while bytes < PAGE_BYTES
                        && let Some(event) = rest.try_next().await.map_err(of_store)?
                    {
                        bytes += event.data.body.len();
                        events.push(event);
                    }
                    if let Some(last) = events.last() {
                        // If the page is not full, the topic has no further message up to the head.
                        let full = events.len() == PAGE || bytes >= PAGE_BYTES;
                        let next = if full { last.position } else { head.max(last.position) };
                        return Ok(Some((stream::iter(events.into_iter().map(Ok)), next)));
                    }
                    if head < after {
                        return Err(BusError::Trimmed { offset: Offset(after.0.to_string()) });
                    }
                    after = head;
                    store.as_ref().appended(after).await;
                }
            }
        });
        let deliveries = pages.try_flatten().map_ok(|event| {
            let (offset, kind) = (offset_of(&event), event.data.name.to_string());
            Delivery { offset, receipt: None, message: Ok(Envelope::of_stored(event, &kind)) }
        });
        Ok(deliveries.boxed())
    }

    async fn lag(&self, topic: &str, _: &str, _: u16, after: Option<&Offset>) -> Result<u64, BusError> {
        let after = after.map_or(Ok(Position(0)), to_position)?;
        self.store.as_ref().count(Read { query: topic_query(topic), after, ..Read::default() }).await.map_err(of_store)
    }
}

async fn event_at(store: &dyn EventStore, position: Position) -> Result<Option<Recorded<Raw>>, BusError> {
    if position == Position(0) {
        return Ok(None);
    }
    store.read(Read::at(position)).await.map_err(of_store)?.events.try_next().await.map_err(of_store)
}

/// Returns the offset of a message: its position, and its id.
fn offset_of(event: &Recorded<Raw>) -> Offset {
    Offset(format!("{}/{}", event.position.0, event.id))
}

fn to_position(offset: &Offset) -> Result<Position, BusError> {
    let position = offset.0.split_once('/').and_then(|(position, _)| position.parse().ok()).map(Position);
    position.ok_or_else(|| BusError::Unsupported(format!("`{}` is not an offset of a log", offset.0)))
}
