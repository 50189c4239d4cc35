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
//! [`BusError::Unavailable`]: the relay waits, its log keeps the messages,
//! and the first group gets all of them.

mod inner;
mod link;
mod options;
mod publish;
mod reading;
mod source;
mod topology;
mod wire;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use eventstore_messaging::{
    Abilities, BusError, Delivered, Delivery, Envelope, Kind, Offset, Order, Outcome, Publisher, Source, Start,
};
use futures::stream::BoxStream;
use lapin::Channel;

use crate::{
    inner::{Inner, locked},
    link::Link,
};

pub use options::RabbitMqOptions;

impl RabbitMqOptions {
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
