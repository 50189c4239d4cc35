//! Messages of [eventstore](https://docs.rs/eventstore) over RabbitMQ.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use eventstore_messaging::Bus;
//! use eventstore_rabbitmq::RabbitMqBus;
//!
//! let bus = Bus::new(RabbitMqBus::connect("amqp://guest:guest@localhost:5672").await?);
//! # Ok(()) }
//! ```
//!
//! A topic is a topic exchange. A group has a quorum queue of each partition, with one active consumer. Messages are
//! CloudEvents in binary mode, under the routing key `partition.type`. What it promises, and which settings of the server
//! matter: `docs/brokers/rabbitmq.md`.
//!
//! **A topic without a group has no place for messages.** Publishing to it fails with
//! [`BusError::Unavailable`](eventstore_messaging::BusError::Unavailable): the relay waits, its log keeps the messages,
//! and the first group gets all of them.

mod link;
mod publish;
mod source;
mod topology;
mod wire;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use eventstore_messaging::{
    Abilities, BusError, Delivered, Delivery, Envelope, Kind, Offset, Order, Outcome, Publisher, Source, Start,
};
use futures::stream::BoxStream;
use lapin::Channel;

use crate::{link::Link, source::Reading};

/// How a [`RabbitMqBus`] connects, and how it makes topics.
#[derive(Clone, Debug)]
pub struct RabbitMqOptions {
    partitions: u16,
    message_bytes: usize,
    prefetch: u16,
    confirm_within: Duration,
}

impl Default for RabbitMqOptions {
    fn default() -> Self {
        Self { partitions: 1, message_bytes: 16 << 20, prefetch: 1_000, confirm_within: Duration::from_secs(10) }
    }
}

impl RabbitMqOptions {
    /// Sets how many partitions a topic has that this bus makes, 1 to 1,024. By default 1. A topic that exists keeps its
    /// number.
    pub fn partitions(self, partitions: u16) -> Self {
        Self { partitions: partitions.clamp(1, 1_024), ..self }
    }

    /// Sets the most bytes of a message. By default 16 MiB, which every version takes unless its `max_message_size` is
    /// less: the server does not say it.
    pub fn message_bytes(self, message_bytes: usize) -> Self {
        Self { message_bytes, ..self }
    }

    /// Sets how many messages of a partition are delivered before the first of them is done. By default 1,000.
    pub fn prefetch(self, prefetch: u16) -> Self {
        Self { prefetch: prefetch.max(1), ..self }
    }

    /// Sets how long a confirmation is waited for. By default 10 seconds.
    pub fn confirm_within(self, confirm_within: Duration) -> Self {
        Self { confirm_within, ..self }
    }

    /// Connects to a server: `amqp://user:password@localhost:5672/vhost`; with the feature `tls`, `amqps://`.
    ///
    /// Fails with [`BusError::Unavailable`] if the server is away. Once it is connected, the bus reconnects by itself.
    pub async fn connect(self, url: &str) -> Result<RabbitMqBus, BusError> {
        // A server that is out of memory or disk stops the connections that publish: readers have one of their own.
        let (publishing, reading) = (Link::new(url, "publishing")?, Link::new(url, "reading")?);
        publishing.channel().await?;
        let (topics, idle, readings) = Default::default();
        Ok(RabbitMqBus { inner: Arc::new(Inner { publishing, reading, options: self, topics, idle, readings }) })
    }
}

/// A bus in the exchanges and queues of RabbitMQ. Cheap to clone; clones share two connections.
#[derive(Clone)]
pub struct RabbitMqBus {
    inner: Arc<Inner>,
}

struct Inner {
    publishing: Link,
    reading: Link,
    options: RabbitMqOptions,
    /// The topics that are made, with their partitions.
    topics: Mutex<HashMap<String, u16>>,
    /// Channels that no publisher uses just now.
    idle: Mutex<Vec<Channel>>,
    /// What is being read.
    readings: Mutex<Readings>,
}

#[derive(Default)]
struct Readings {
    last: u64,
    open: HashMap<u64, Arc<Reading>>,
}

impl RabbitMqBus {
    /// Connects to a server; see [`RabbitMqOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self, BusError> {
        Self::options().connect(url).await
    }

    /// Returns the options to connect with.
    pub fn options() -> RabbitMqOptions {
        RabbitMqOptions::default()
    }

    /// Returns a new channel of the connection that publishes, for what this crate has no method for.
    pub async fn native(&self) -> Result<Channel, BusError> {
        self.inner.publishing.channel().await
    }

    /// Returns the number of partitions of a topic, which is made unless it was.
    async fn partitions(&self, topic: &str) -> Result<u16, BusError> {
        if let Some(partitions) = locked(&self.inner.topics).get(topic) {
            return Ok(*partitions);
        }
        let partitions = topology::topic(&self.inner.publishing, topic, self.inner.options.partitions).await?;
        locked(&self.inner.topics).insert(topic.into(), partitions);
        Ok(partitions)
    }

    fn abilities(&self, partitions: u16) -> Abilities {
        let abilities = Abilities::new(Order::Key, Kind::Queue).partitions(partitions);
        abilities.message_bytes(self.inner.options.message_bytes)
    }
}

impl std::fmt::Debug for RabbitMqBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RabbitMqBus")
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Publisher for RabbitMqBus {
    async fn topic(&self, topic: &str) -> Result<Abilities, BusError> {
        locked(&self.inner.topics).remove(topic);
        Ok(self.abilities(self.partitions(topic).await?))
    }

    async fn publish(&self, topic: &str, messages: &[Envelope]) -> Vec<Outcome> {
        let published = match self.partitions(topic).await {
            Ok(partitions) => publish::publish(&self.inner, topic, partitions, messages).await,
            Err(error) => publish::failed(messages.len(), error),
        };
        if published.iter().any(|outcome| matches!(outcome, Outcome::Failed(BusError::Unavailable(_)))) {
            // The exchange may be gone.
            locked(&self.inner.topics).remove(topic);
        }
        published
    }
}

#[async_trait]
impl Source for RabbitMqBus {
    async fn subscribe(&self, topic: &str, group: &str) -> Result<Abilities, BusError> {
        locked(&self.inner.topics).remove(topic);
        let partitions = self.partitions(topic).await?;
        topology::group(&self.inner.reading, topic, group, partitions).await?;
        Ok(self.abilities(partitions))
    }

    async fn offset(&self, _: &str, _: u16, _: Start) -> Result<Option<Offset>, BusError> {
        Ok(None)
    }

    async fn read(
        &self,
        topic: &str,
        group: &str,
        partition: u16,
        _: Option<Offset>,
    ) -> Result<BoxStream<'static, Result<Delivery, BusError>>, BusError> {
        source::read(&self.inner, topic, group, partition).await
    }

    async fn done(&self, _: &str, _: &str, _: u16, deliveries: &[Delivered]) -> Result<(), BusError> {
        let mut tags: HashMap<u64, HashSet<u64>> = HashMap::new();
        for delivery in deliveries {
            let receipt = delivery.receipt.as_deref().and_then(|receipt| receipt.split_once('/'));
            let numbers = receipt.and_then(|(reading, tag)| Some((reading.parse().ok()?, tag.parse().ok()?)));
            let Some((reading, tag)) = numbers else {
                return Err(BusError::Unsupported("a delivery without a receipt of RabbitMQ".into()));
            };
            tags.entry(reading).or_default().insert(tag);
        }
        for (reading, tags) in tags {
            let reading = locked(&self.inner.readings).open.get(&reading).cloned();
            let Some(reading) = reading else {
                return Err(BusError::unavailable("the reading has ended, and what it delivered comes again"));
            };
            reading.done(tags).await?;
        }
        Ok(())
    }

    async fn lag(&self, topic: &str, group: &str, partition: u16, _: Option<&Offset>) -> Result<u64, BusError> {
        let queue = topology::queue(topic, group, partition)?;
        let waiting = topology::waiting(&self.inner.reading, &queue).await?;
        let readings = locked(&self.inner.readings);
        let open = readings.open.values().filter(|reading| reading.queue == queue);
        // What is delivered and not done is in no count that the server tells.
        Ok(waiting + open.map(|reading| reading.on_its_way()).sum::<u64>())
    }
}
