//! What a bus can do: publish messages to topics, and hand them to groups of readers. An adapter implements
//! [`Publisher`] and [`Source`].

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use eventstore_core::{BoxError, Invalid, SLOTS, Timestamp, limits, slot};
use futures::stream::BoxStream;

use crate::{cloud_events::NotAMessage, envelope::Envelope};

/// A bus: publishes messages, and hands them to groups of readers. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    /// Publishes.
    pub publisher: Arc<dyn Publisher>,
    /// Hands messages to readers.
    pub source: Arc<dyn Source>,
}

impl Bus {
    /// Returns the bus of an adapter.
    pub fn new<A: Publisher + Source>(adapter: A) -> Self {
        let adapter = Arc::new(adapter);
        Self { publisher: adapter.clone(), source: adapter }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bus")
    }
}

/// Publishes messages. An adapter reconnects by itself; what was not confirmed meanwhile is
/// [`BusError::Unavailable`].
#[async_trait]
pub trait Publisher: Send + Sync + 'static {
    /// Makes a topic, unless it exists, and returns what the bus can do with it.
    async fn topic(&self, topic: &str) -> Result<Abilities, BusError>;

    /// Publishes messages in their order, and returns one outcome for each. [`Outcome::Done`] means that the message is
    /// confirmed: it will be delivered even if the bus crashes.
    ///
    /// With [`Order::Prefix`], no message is published that comes behind one of its partition whose outcome is another.
    /// With [`Order::Key`], the caller gives each call at most one message of a key.
    async fn publish(&self, topic: &str, messages: &[Envelope]) -> Vec<Outcome>;

    /// Returns the last message of each of these partitions; `None` for a partition that has none, or where the bus
    /// cannot tell. A relay asks before it publishes for the first time and after each failure, and so publishes nothing
    /// twice, even after a crash.
    async fn last(&self, topic: &str, partitions: Range<u16>) -> Result<Vec<Option<Last>>, BusError> {
        let _ = topic;
        Ok(vec![None; partitions.len()])
    }
}

/// The last message of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// Its id.
    pub id: String,
    /// Its attribute `relayed`, by which a relay recognizes its own messages; empty if it has none.
    pub relayed: String,
}

/// Hands the messages of a topic to the readers of a group.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Makes a topic and what the group needs to read it, unless they exist, and returns what the bus can do with it.
    async fn subscribe(&self, topic: &str, group: &str) -> Result<Abilities, BusError>;

    /// Returns the offset after which a new group begins; `None` is before the first message. Called once for each
    /// partition; not for a queue, which keeps the place of its groups itself.
    async fn offset(&self, topic: &str, partition: u16, start: Start) -> Result<Option<Offset>, BusError>;

    /// Returns the messages of a partition after an offset, in their order, as an endless stream: at the end of the
    /// partition it waits for the next one. A queue ignores the offset, and delivers what no reader of the group has
    /// reported [`done`](Self::done).
    ///
    /// The stream yields [`BusError::Trimmed`] if the partition does not have the messages after the offset any more, and
    /// ends after an error. It can be dropped at any time.
    async fn read(
        &self,
        topic: &str,
        group: &str,
        partition: u16,
        after: Option<Offset>,
    ) -> Result<BoxStream<'static, Result<Delivery, BusError>>, BusError>;

    /// Called when deliveries are recorded: they need not be delivered again. A log may tell tools where the group is.
    async fn done(&self, topic: &str, group: &str, partition: u16, deliveries: &[Delivered]) -> Result<(), BusError> {
        let _ = (topic, group, partition, deliveries);
        Ok(())
    }

    /// Returns how many messages a partition has after an offset; an estimate, where the bus has no better.
    async fn lag(&self, topic: &str, group: &str, partition: u16, after: Option<&Offset>) -> Result<u64, BusError>;
}

/// What a bus can do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Abilities {
    /// The order in which it keeps messages of one call.
    pub order: Order,
    /// Who keeps the place of a group.
    pub kind: Kind,
    /// How many partitions the topic has: 1 to 1,024. It never changes.
    pub partitions: u16,
    /// The most bytes of a message, attributes and body.
    pub message_bytes: usize,
}

impl Abilities {
    /// Returns abilities of a topic with one partition and messages of up to 1 MiB.
    pub fn new(order: Order, kind: Kind) -> Self {
        Self { order, kind, partitions: 1, message_bytes: 1 << 20 }
    }

    /// Sets the number of partitions.
    pub fn partitions(self, partitions: u16) -> Self {
        Self { partitions, ..self }
    }

    /// Sets the most bytes of a message.
    pub fn message_bytes(self, message_bytes: usize) -> Self {
        Self { message_bytes, ..self }
    }
}

/// The order in which a bus keeps the messages of one call of [`publish`](Publisher::publish).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Messages behind one of their partition that was not published are not published either.
    Prefix,
    /// Messages of a key are in the order in which they were published, if each is published after the one before it was
    /// confirmed.
    Key,
    /// None.
    None,
}

/// Who keeps the place of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The reader: an offset, in the transaction that records the messages.
    Log,
    /// The bus: it delivers again what is not reported done.
    Queue,
}

/// Returns the partition of a key, of `partitions`: by its [slot](eventstore_core::slot), as shards are.
pub fn partition(key: &str, partitions: u16) -> u16 {
    (u32::from(slot(key)) * u32::from(partitions) / u32::from(SLOTS)) as u16
}

/// What became of a message.
#[derive(Debug)]
pub enum Outcome {
    /// It is confirmed.
    Done,
    /// It was not published, because one before it failed.
    NotTried,
    /// It failed. Unless the error is [`BusError::Refused`], it may have been published nevertheless.
    Failed(BusError),
}

/// Where a reader is in a partition: opaque text, as the bus says it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Offset(pub String);

/// Where a new group begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the first message that the topic has.
    #[default]
    Earliest,
    /// With the first message after the group begins.
    Latest,
    /// With the first message published at or after an instant, by the clock of the bus.
    Since(Timestamp),
}

/// A message that was delivered.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its offset.
    pub offset: Offset,
    /// What tells a queue which delivery is done.
    pub receipt: Option<String>,
    /// The message; or what arrived instead.
    pub message: Result<Envelope, Unread>,
}

/// A delivery that is recorded.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// Its offset.
    pub offset: Offset,
    /// What tells a queue which delivery it is.
    pub receipt: Option<String>,
}

/// What arrived, and is no message.
#[derive(Clone, Debug)]
pub struct Unread {
    /// Why.
    pub reason: NotAMessage,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The bytes.
    pub body: Vec<u8>,
}

/// Why a bus did not do what it was asked. Texts have no message in them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// It is away, or did not confirm in time: the caller tries again.
    #[error("the bus is unavailable")]
    Unavailable(#[source] BoxError),
    /// This program may not do that: the caller tries again, since an operator may grant it.
    #[error("the bus has refused this program")]
    Denied(#[source] BoxError),
    /// It will never take this message: too large, or against its rules.
    #[error("the bus has refused the message")]
    Refused(#[source] BoxError),
    /// The topic does not have the messages after an offset any more: they were removed before the group read them, or
    /// the bus has lost its end.
    #[error("the topic does not have the messages after offset {}", offset.0)]
    Trimmed {
        /// The offset.
        offset: Offset,
    },
    /// It cannot do that, whenever it is asked.
    #[error("the bus cannot do that: {0}")]
    Unsupported(String),
}

impl BusError {
    /// Returns the error for a bus that is away.
    pub fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Refuses names of topics that a bus may not be able to keep.
pub fn check_topic(topic: &str) -> Result<(), Invalid> {
    check_name("topic", topic)
}

/// Refuses names of groups that a bus may not be able to keep.
pub fn check_group(group: &str) -> Result<(), Invalid> {
    check_name("group", group)
}

fn check_name(what: &'static str, text: &str) -> Result<(), Invalid> {
    limits::plain(what, text)?;
    if text.len() > 200 { Err(Invalid::name(what, text, "is longer than 200 bytes")) } else { Ok(()) }
}
