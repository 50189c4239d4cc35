//! Messages between services: a relay of one store, a bus, and an inbox of another store.

use std::{
    collections::HashSet,
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventstore::{
    Bus, BusError, Envelope, EventStore, Expected, Id, Inbox, LogBus, Message, Position, Processors, Publish, Raw,
    ReadInboxes, Relay, RunMessaging, Running, Start, StartFrom, State, Store, StoreError, StreamId, Timestamp,
    prelude::*,
};
use eventstore_messaging::{
    Abilities, Delivered, Delivery, Kind, Last, NotAMessage, Offset, Order, Outcome, Publisher, Source, Unread,
};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{Between, World, world};

type Any = Box<dyn Error>;

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "order")]
pub enum PurchaseEvent {
    Placed {
        cents: i64,
    },
    Noted {
        text: String,
    },
    Shipped,
    /// Its messages are of two keys.
    Merged {
        into: String,
    },
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "order", topic = "orders", rename_all = "camelCase")]
pub enum OrderMessage {
    Placed {
        #[event(tag = "order")]
        order_id: String,
        total_cents: i64,
    },
    Shipped {
        #[event(tag = "order")]
        order_id: String,
    },
}

impl Publish for OrderMessage {
    type From = PurchaseEvent;

    fn publish(event: &Recorded<PurchaseEvent>) -> Vec<Self> {
        let order_id = event.stream.key().to_owned();
        match &event.data {
            PurchaseEvent::Placed { cents: 1_414 } => panic!("fourteen"),
            PurchaseEvent::Placed { cents } => vec![Self::Placed { order_id, total_cents: *cents }],
            PurchaseEvent::Shipped if order_id == "long" => vec![Self::Shipped { order_id: "o".repeat(600) }],
            PurchaseEvent::Shipped => vec![Self::Shipped { order_id }],
            PurchaseEvent::Merged { into } => {
                vec![Self::Shipped { order_id }, Self::Shipped { order_id: into.clone() }]
            }
            PurchaseEvent::Noted { .. } => vec![],
        }
    }

    fn key(&self, _: &Recorded<PurchaseEvent>) -> String {
        let (Self::Placed { order_id, .. } | Self::Shipped { order_id }) = self;
        order_id.clone()
    }
}

/// A bus with faults.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<LogBus>,
    order: Order,
    /// Nothing is published, and nothing read.
    away: Arc<AtomicBool>,
    /// What is published is not confirmed, so often.
    unconfirmed: Arc<AtomicUsize>,
    /// What is published is lost, so often.
    lost: Arc<AtomicUsize>,
    /// Orders of so many cents are refused.
    refused: Arc<Mutex<HashSet<i64>>>,
    /// Nothing is published while it has no permit.
    gate: Arc<Semaphore>,
    /// Each call: the ids.
    calls: Arc<Mutex<Vec<Vec<String>>>>,
    /// How many deliveries are no message.
    garbled: Arc<Mutex<HashSet<String>>>,
    /// Deliveries are repeated, so often.
    repeats: usize,
}

impl Faulty {
    fn new(bus: &Store) -> Self {
        let (away, unconfirmed, lost, refused, calls, garbled) = Default::default();
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let (inner, order, repeats) = (Arc::new(LogBus::new(bus)), Order::Prefix, 1);
        Self { inner, order, away, unconfirmed, lost, refused, gate, calls, garbled, repeats }
    }

    fn bus(&self) -> Bus {
        Bus::new(self.clone())
    }

    fn ids(&self) -> Vec<String> {
        self.calls.lock().unwrap().concat()
    }

    fn is_refused(&self, message: &Envelope) -> bool {
        let refused = self.refused.lock().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&message.data).unwrap();
        body["totalCents"].as_i64().is_some_and(|cents| refused.contains(&cents))
    }

    fn there(&self) -> Result<(), BusError> {
        if self.away.load(Ordering::SeqCst) { Err(BusError::unavailable("away")) } else { Ok(()) }
    }
}

#[async_trait::async_trait]
impl Publisher for Faulty {
    async fn topic(&self, topic: &str) -> Result<Abilities, BusError> {
        self.there()?;
        self.inner.topic(topic).await.map(|_| Abilities::new(self.order, Kind::Log))
    }

    async fn publish(&self, topic: &str, messages: &[Envelope]) -> Vec<Outcome> {
        let _permit = self.gate.acquire().await.unwrap();
        if let Err(away) = self.there() {
            return vec![Outcome::Failed(away)];
        }
        let less = |left: usize| left.checked_sub(1);
        if self.lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            return messages.iter().map(|_| Outcome::Failed(BusError::unavailable("cut"))).collect();
        }
        let place = messages.iter().position(|message| self.is_refused(message)).unwrap_or(messages.len());
        let sent = match self.order {
            Order::Prefix => messages[..place].to_vec(),
            _ => messages.iter().filter(|message| !self.is_refused(message)).cloned().collect(),
        };
        self.calls.lock().unwrap().push(sent.iter().map(|message| message.id.clone()).collect());
        let outcomes = self.inner.publish(topic, &sent).await;
        if self.unconfirmed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            return messages.iter().map(|_| Outcome::Failed(BusError::unavailable("cut"))).collect();
        }
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done)));
        let refused = || Outcome::Failed(BusError::Refused("against the rules".into()));
        let outcome = |(n, message)| match self.is_refused(message) {
            true if self.order != Order::Prefix || n == place => refused(),
            _ if self.order == Order::Prefix && n > place => Outcome::NotTried,
            _ => Outcome::Done,
        };
        messages.iter().enumerate().map(outcome).collect()
    }

    async fn last(&self, topic: &str, partitions: std::ops::Range<u16>) -> Result<Vec<Option<Last>>, BusError> {
        self.inner.last(topic, partitions).await
    }
}

#[async_trait::async_trait]
impl Source for Faulty {
    async fn subscribe(&self, topic: &str, group: &str) -> Result<Abilities, BusError> {
        self.there()?;
        self.inner.subscribe(topic, group).await
    }

    async fn offset(&self, topic: &str, partition: u16, start: Start) -> Result<Option<Offset>, BusError> {
        self.inner.offset(topic, partition, start).await
    }

    async fn read(
        &self,
        topic: &str,
        group: &str,
        partition: u16,
        after: Option<Offset>,
    ) -> Result<BoxStream<'static, Result<Delivery, BusError>>, BusError> {
        self.there()?;
        let (garbled, repeats) = (self.garbled.clone(), self.repeats);
        let deliveries = self.inner.read(topic, group, partition, after).await?;
        let deliveries = deliveries.flat_map(move |delivery| {
            let delivery = delivery.map(|mut delivery| {
                if let Ok(message) = &delivery.message
                    && garbled.lock().unwrap().contains(&message.key)
                {
                    let (headers, body) = (message.headers("ce-"), b"\0garbled".to_vec());
                    let reason = Envelope::read(&[], body.clone()).unwrap_err();
                    let _: &NotAMessage = &reason;
                    delivery.message = Err(Unread { reason, headers, body });
                }
                delivery
            });
            let mut all = vec![];
            if let Ok(delivery) = &delivery {
                all.extend((1..repeats).map(|_| Ok(delivery.clone())));
            }
            all.push(delivery);
            futures::stream::iter(all)
        });
        Ok(deliveries.boxed())
    }

    async fn done(&self, _: &str, _: &str, _: u16, _: &[Delivered]) -> Result<(), BusError> {
        Ok(())
    }

    async fn lag(&self, topic: &str, group: &str, partition: u16, after: Option<&Offset>) -> Result<u64, BusError> {
        self.inner.lag(topic, group, partition, after).await
    }
}

/// A service that publishes, a bus, and a service that listens, each with a store of its own.
struct Services {
    orders: World,
    bus: World,
    shipping: World,
    publisher: Store,
    listener: Store,
    faulty: Faulty,
}

async fn services() -> Services {
    let (orders, bus, shipping) = (world().await, world().await, world().await);
    let publisher = orders.store.clone().with_source("orders");
    let listener = shipping.store.clone().with_source("shipping");
    let faulty = Faulty::new(&bus.store);
    Services { orders, bus, shipping, publisher, listener, faulty }
}

impl Services {
    fn relay(&self) -> Running {
        Runner::new(&self.publisher).relay::<OrderMessage>(&self.faulty.bus()).start()
    }

    fn inbox(&self) -> Running {
        Runner::new(&self.listener).inbox::<OrderMessage>(&self.faulty.bus()).start()
    }

    async fn place(&self, order: &str, cents: impl IntoIterator<Item = i64>) -> Result<Position, StoreError> {
        let events = cents.into_iter().map(|cents| PurchaseEvent::Placed { cents });
        Ok(self.publisher.append(StreamId::new("purchase", order), Expected::Any, events).await?.last)
    }

    /// What is in the topic: key and cents.
    async fn published(&self) -> Result<Vec<(String, i64)>, Any> {
        cents(self.bus.store.read().category("orders").raw()).await
    }

    /// What is recorded by the listener.
    async fn received(&self) -> Result<Vec<(String, i64)>, Any> {
        cents(self.listener.read().category("in.orders").raw()).await
    }
}

async fn cents(events: BoxStream<'static, Result<Recorded<Raw>, StoreError>>) -> Result<Vec<(String, i64)>, Any> {
    let events: Vec<_> = events.try_collect().await?;
    let of = |event: Recorded<Raw>| {
        let body: serde_json::Value = serde_json::from_slice(&event.data.body)?;
        Ok((event.stream.key().to_owned(), body["totalCents"].as_i64().unwrap_or(0)))
    };
    events.into_iter().map(of).collect()
}

fn of(key: &str, cents: impl IntoIterator<Item = i64>) -> Vec<(String, i64)> {
    cents.into_iter().map(|cents| (key.to_owned(), cents)).collect()
}

#[tokio::test]
async fn r1_what_a_service_publishes_is_an_event_of_the_other() -> Result<(), Any> {
    let services = services().await;
    let (relay, inbox) = (services.relay(), services.inbox());
    let stream = StreamId::new("purchase", "o7");
    let placed = PurchaseEvent::Placed { cents: 100 };
    let events = [placed, PurchaseEvent::Noted { text: "private".into() }, PurchaseEvent::Shipped];
    let written = services
        .publisher
        .append(&stream, Expected::Any, events)
        .occurred_at("2026-01-02T03:04:05Z".parse::<Timestamp>()?)
        .await?;
    relay.settle().await?;
    inbox.settle().await?;
    let own: Vec<_> = services.publisher.read().raw().try_collect().await?;
    let received: Vec<_> = services.listener.read().events::<OrderMessage>().try_collect::<Vec<_>>().await?;
    let data: Vec<_> = received.iter().map(|event| event.data.clone()).collect();
    let order_id = "o7".to_owned();
    assert_eq!(
        data,
        [OrderMessage::Placed { order_id: order_id.clone(), total_cents: 100 }, OrderMessage::Shipped { order_id },]
    );
    for (event, cause) in received.iter().zip([&own[0], &own[2]]) {
        assert_eq!(event.stream.as_str(), "in.orders-o7");
        assert_eq!((event.metadata.source.as_deref(), event.metadata.causation_id), (Some("orders"), Some(cause.id)));
        assert_eq!(event.metadata.correlation_id, cause.metadata.correlation_id);
        assert_eq!(event.occurred_at, cause.occurred_at);
        assert_eq!(event.metadata.extra["sequence"], format!("{:020}", cause.position.0));
        assert_eq!(
            event.id,
            eventstore::derived_id(cause.id, ["orders", event.data.name().strip_prefix("orders:").unwrap(), "1"])
        );
    }
    assert_eq!((received[0].data.name(), received[0].schema), ("orders:order.placed", 1));
    assert_eq!(services.orders.inner.checkpoint("relay:orders").await?, written.last);
    let tagged = services.listener.read().tag(eventstore::Tag::new("order", "o7")).count().await?;
    assert_eq!(tagged, 2, "the tags are those of the listener's type");
    relay.stop().await;
    inbox.stop().await;
    Ok(())
}

#[tokio::test]
async fn l3_a_message_is_never_taken_for_an_own_event_of_the_same_name() -> Result<(), Any> {
    let services = services().await;
    let (relay, inbox) = (services.relay(), services.inbox());
    services.place("o7", [100]).await?;
    services
        .listener
        .append(StreamId::new("purchase", "o7"), Expected::Any, [PurchaseEvent::Placed { cents: 1 }])
        .await?;
    relay.settle().await?;
    inbox.settle().await?;
    let own: Vec<_> = services.listener.read().events::<PurchaseEvent>().try_collect::<Vec<_>>().await?;
    assert_eq!(own.iter().map(|event| event.data.clone()).collect::<Vec<_>>(), [PurchaseEvent::Placed { cents: 1 }]);
    assert_eq!(services.listener.read().category("in.orders").count().await?, 1);
    relay.stop().await;
    inbox.stop().await;
    Ok(())
}

#[tokio::test]
async fn r1_a_message_that_was_not_confirmed_is_published_again_and_recorded_once() -> Result<(), Any> {
    let services = services().await;
    services.faulty.unconfirmed.store(3, Ordering::SeqCst);
    services.place("o7", 100..110).await?;
    let (relay, inbox) = (services.relay(), services.inbox());
    relay.settle().await?;
    services.faulty.lost.store(2, Ordering::SeqCst);
    services.place("o7", 110..120).await?;
    relay.settle().await?;
    inbox.settle().await?;
    assert_eq!(services.published().await?, of("o7", 100..120));
    assert_eq!(services.received().await?, of("o7", 100..120));
    assert!(Processors::new(&services.publisher).dead_letters("relay:orders").list().await?.is_empty());
    relay.stop().await;
    inbox.stop().await;
    Ok(())
}

/// The topic says how far the relay came: what was published and not confirmed is not published again.
#[tokio::test]
async fn r4_a_relay_that_takes_over_leaves_out_what_is_in_the_topic() -> Result<(), Any> {
    let services = services().await;
    services.place("o1", [1, 2]).await?;
    let stream = StreamId::new("purchase", "o2");
    services.publisher.append(&stream, Expected::Any, [PurchaseEvent::Merged { into: "o1".into() }]).await?;
    services.faulty.unconfirmed.store(1, Ordering::SeqCst);
    let relay = services.relay();
    relay.settle().await?;
    services.place("o1", [3]).await?;
    relay.settle().await?;
    relay.stop().await;
    // Each id once, although the first batch was not confirmed.
    let ids = services.faulty.ids();
    assert_eq!(ids.len(), 5, "{ids:?}");
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 5);
    assert_eq!(services.published().await?.len(), 5);

    // A relay whose checkpoint is behind the topic, as after a crash between the confirm and the commit.
    let mut transaction = services.orders.inner.begin().await?;
    transaction.lock_projection("relay:orders").await?;
    transaction.put_shards("relay:orders", vec![]).await?;
    transaction.commit().await?;
    let relay = services.relay();
    relay.settle().await?;
    relay.stop().await;
    assert_eq!(services.faulty.ids().len(), 5, "nothing is published twice");
    Ok(())
}

#[tokio::test]
async fn r6_a_message_that_is_refused_waits_with_those_behind_it_and_others_flow() -> Result<(), Any> {
    for order in [Order::Prefix, Order::Key] {
        let mut services = services().await;
        services.faulty.order = order;
        services.faulty.refused.lock().unwrap().insert(1_300);
        services.place("o1", [1, 1_300, 2, 3]).await?;
        services.place("o2", [4, 5]).await?;
        let relay = services.relay();
        let settled = relay.settle().await;
        assert!(matches!(settled, Err(StoreError::Parked { .. })), "{order:?}: {settled:?}");
        assert_eq!(services.published().await?, [of("o1", [1]), of("o2", [4, 5])].concat(), "{order:?}");
        let operator = Processors::new(&services.publisher);
        let letters = operator.dead_letters("relay:orders").list().await?;
        assert_eq!(letters.len(), 3, "the refused one and two behind it");
        assert!(letters[0].error.contains("refused") && letters[0].error.contains("against the rules"), "{letters:?}");
        let failed = serde_json::to_value(operator.dead_letters("relay:orders").in_full().await?)?;
        assert_eq!(failed[0]["originalEvent"]["type"], "order.placed");
        assert_eq!(failed[0]["originalEvent"]["data"]["cents"], 1_300);
        assert_eq!(failed[0]["originalEvent"]["source"], "orders");
        assert_eq!(failed[0]["failureReason"], letters[0].error);
        assert!(failed[0]["failedAt"].is_string() && failed.as_array().is_some_and(|failed| failed.len() == 3));
        services.place("o1", [6]).await?;
        services.faulty.refused.lock().unwrap().clear();
        operator.dead_letters("relay:orders").retry("o1").await?;
        relay.settle().await?;
        let o1: Vec<_> = services.published().await?.into_iter().filter(|(key, _)| key == "o1").collect();
        assert_eq!(o1, of("o1", [1, 1_300, 2, 3, 6]), "{order:?}");
        relay.stop().await;
        let ids = services.faulty.ids();
        assert_eq!(ids.len(), ids.iter().collect::<HashSet<_>>().len(), "{order:?}: each once");
        // A retried message does not set the relay back: it goes on behind the last one.
        services.place("o2", [7]).await?;
        let relay = services.relay();
        relay.settle().await?;
        relay.stop().await;
        assert_eq!(services.published().await?.len(), 8);
    }
    Ok(())
}

#[tokio::test]
async fn r6_an_event_that_publish_panics_on_is_parked() -> Result<(), Any> {
    let services = services().await;
    services.place("o1", [1, 1_414, 2]).await?;
    services.place("o2", [3]).await?;
    let relay = services.relay();
    assert!(matches!(relay.settle().await, Err(StoreError::Parked { .. })));
    assert_eq!(services.published().await?, [of("o1", [1]), of("o2", [3])].concat());
    relay.stop().await;
    Ok(())
}

#[tokio::test]
async fn r6_a_message_whose_key_no_log_could_hold_parks_its_stream() -> Result<(), Any> {
    let services = services().await;
    services.publisher.append(StreamId::new("purchase", "long"), Expected::Any, [PurchaseEvent::Shipped]).await?;
    services.place("o2", [3]).await?;
    let relay = services.relay();
    let settled = relay.settle().await;
    assert!(matches!(settled, Err(StoreError::Parked { .. })), "{settled:?}");
    assert_eq!(services.published().await?, of("o2", [3]));
    let letters = Processors::new(&services.publisher).dead_letters("relay:orders").list().await?;
    assert!(letters[0].whole_stream && letters[0].error.contains("longer than 512 bytes"), "{letters:?}");
    relay.stop().await;
    Ok(())
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "order", topic = "orders", rename_all = "camelCase")]
enum PlacedAlone {
    Placed { order_id: String, total_cents: i64 },
}

/// Of two releases, the one that names fewer types would pass the others over.
#[tokio::test]
async fn i1_a_node_that_names_fewer_types_stands_aside() -> Result<(), Any> {
    let services = services().await;
    let bus = services.faulty.bus();
    let lease = Duration::from_millis(300);
    let old = Runner::new(&services.listener).inbox::<PlacedAlone>(&bus).lease(lease).start();
    services.place("o1", [1]).await?;
    let relay = services.relay();
    relay.settle().await?;
    old.settle().await?;
    let new = Runner::new(&services.listener).inbox::<OrderMessage>(&bus).lease(lease).start();
    let late = tokio::time::Instant::now() + Duration::from_secs(10);
    while !new.status()[0].shards.iter().any(|(_, at)| at.owner.is_some()) && tokio::time::Instant::now() < late {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(lease).await;
    let shipped = StreamId::new("purchase", "o1");
    services.publisher.append(&shipped, Expected::Any, [PurchaseEvent::Shipped]).await?;
    relay.settle().await?;
    new.settle().await?;
    assert_eq!(services.listener.read().category("in.orders").count().await?, 2, "both types");
    old.stop().await;
    new.stop().await;
    relay.stop().await;
    Ok(())
}

#[tokio::test]
async fn r7_a_bus_that_is_away_is_waited_for_and_parks_nothing() -> Result<(), Any> {
    let services = services().await;
    let (relay, inbox) = (services.relay(), services.inbox());
    relay.settle().await?;
    inbox.settle().await?;
    services.faulty.away.store(true, Ordering::SeqCst);
    for order in 0..300 {
        services.place(&format!("o{order}"), [order]).await?;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(services.published().await?.is_empty());
    let status = &relay.status()[0];
    assert!(status.error.as_ref().is_some_and(|error| error.to_string().contains("unavailable")), "{status:?}");
    assert_ne!(status.state, State::Failed);
    services.faulty.away.store(false, Ordering::SeqCst);
    relay.settle().await?;
    inbox.settle().await?;
    assert_eq!(services.received().await?.len(), 300);
    assert!(Processors::new(&services.publisher).dead_letters("relay:orders").list().await?.is_empty());
    relay.stop().await;
    inbox.stop().await;
    Ok(())
}

/// A message that waits behind a parked one is published once that is, although the topic has later ones: a node crashed
/// after it had published those, and before it stored that this one waits.
#[tokio::test]
async fn r1_a_message_that_waits_is_not_taken_for_published_after_a_crash() -> Result<(), Any> {
    let services = services().await;
    let down = Arc::new(AtomicBool::new(false));
    let inner = Arc::new(Between::new(&services.orders.inner).down_while(&down)) as Arc<dyn EventStore>;
    let publisher = Store::from(inner).with_source("orders");
    let relay = Runner::new(&publisher).relay::<OrderMessage>(&services.faulty.bus()).start();
    services.faulty.refused.lock().unwrap().insert(1_300);
    services.place("o1", [1_300]).await?;
    assert!(matches!(relay.settle().await, Err(StoreError::Parked { .. })));
    down.store(true, Ordering::SeqCst);
    let placed = |cents| [PurchaseEvent::Placed { cents }];
    let (one, two) = (StreamId::new("purchase", "o1"), StreamId::new("purchase", "o2"));
    services.publisher.append(&one, Expected::Any, placed(2)).and(&two, Expected::Any, placed(4)).await?;
    let late = tokio::time::Instant::now() + Duration::from_secs(10);
    while services.published().await?.is_empty() && tokio::time::Instant::now() < late {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(services.published().await?, of("o2", [4]));
    relay.stop().await;
    down.store(false, Ordering::SeqCst);
    services.faulty.refused.lock().unwrap().clear();
    let relay = Runner::new(&services.publisher).relay::<OrderMessage>(&services.faulty.bus()).retry_at_start().start();
    relay.settle().await?;
    relay.stop().await;
    let o1: Vec<_> = services.published().await?.into_iter().filter(|(key, _)| key == "o1").collect();
    assert_eq!(o1, of("o1", [1_300, 2]));
    Ok(())
}

/// A topic may have messages of another log: they say nothing of how far this relay came.
#[tokio::test]
async fn r8_the_messages_of_another_log_are_no_fork() -> Result<(), Any> {
    let services = services().await;
    services.place("o1", [1, 2, 3]).await?;
    let relay = services.relay();
    relay.settle().await?;
    relay.stop().await;
    let other = world().await;
    assert_ne!(other.inner.identity().await?.id, services.orders.inner.identity().await?.id);
    let publisher = other.store.clone().with_source("orders");
    publisher.append(StreamId::new("purchase", "o9"), Expected::Any, [PurchaseEvent::Placed { cents: 9 }]).await?;
    let relay = Runner::new(&publisher).relay::<OrderMessage>(&services.faulty.bus()).start();
    relay.settle().await?;
    relay.stop().await;
    assert_eq!(services.published().await?.len(), 4);
    Ok(())
}

#[tokio::test]
async fn r3_nothing_is_published_that_a_crash_of_the_database_could_undo() -> Result<(), Any> {
    let services = services().await;
    let disk = Arc::new(Semaphore::new(0));
    let inner = Arc::new(Between::new(&services.orders.inner).flushed_by(&disk)) as Arc<dyn EventStore>;
    let publisher = Store::from(inner).with_source("orders");
    let relay = Runner::new(&publisher).relay::<OrderMessage>(&services.faulty.bus()).start();
    services.place("o1", [1]).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(services.published().await?.is_empty());
    disk.add_permits(1_000);
    relay.settle().await?;
    assert_eq!(services.published().await?, of("o1", [1]));
    relay.stop().await;
    Ok(())
}

#[tokio::test]
async fn r1_a_relay_without_a_source_and_an_inbox_without_a_group_do_not_start() -> Result<(), Any> {
    let services = services().await;
    let bus = services.faulty.bus();
    let relay = Runner::new(&services.orders.store).relay::<OrderMessage>(&bus).start();
    let inbox = Runner::new(&services.shipping.store).inbox::<OrderMessage>(&bus).start();
    services.place("o1", [1]).await?;
    for (runner, what) in [(relay, ".with_source(\"orders\")"), (inbox, ".group(\"shipping\")")] {
        services
            .shipping
            .store
            .append(StreamId::new("purchase", "o1"), Expected::Any, [PurchaseEvent::Shipped])
            .await?;
        let stopped = runner.until(Position(1)).await;
        let Err(error @ StoreError::Stopped { .. }) = stopped else { panic!("{stopped:?}") };
        assert!(error.to_string().contains(what), "{error}");
        runner.stop().await;
    }
    Ok(())
}

#[tokio::test]
async fn i1_a_message_is_recorded_once_however_often_it_is_delivered() -> Result<(), Any> {
    let mut services = services().await;
    services.faulty.repeats = 3;
    services.place("o7", 0..50).await?;
    let relay = services.relay();
    relay.settle().await?;
    let inbox = services.inbox();
    inbox.settle().await?;
    inbox.stop().await;
    assert_eq!(services.received().await?, of("o7", 0..50));
    // Read again from the beginning, by a group that begins anew.
    let again = Inbox::<OrderMessage>::new(&services.faulty.bus()).group("again");
    let inbox = Runner::new(&services.listener).inbox(again).start();
    services.place("o7", [50]).await?;
    relay.settle().await?;
    inbox.settle().await?;
    assert_eq!(services.received().await?, of("o7", 0..51));
    let offsets = services.listener.inboxes().offsets("orders").await?;
    let groups: Vec<_> = offsets.iter().map(|offset| &*offset.group).collect();
    assert_eq!(groups, ["again", "shipping"]);
    inbox.stop().await;
    relay.stop().await;
    Ok(())
}

/// Connections break between the transactions of an inbox, and of many commits some are not answered, of which some were
/// done.
#[tokio::test]
async fn i2_the_offset_moves_with_what_is_recorded_or_not_at_all() -> Result<(), Any> {
    let services = services().await;
    let relay = services.relay();
    let breaks = Arc::new(AtomicUsize::new(0));
    let inner =
        Arc::new(Between::new(&services.shipping.inner).unanswered(7).broken_at(&breaks)) as Arc<dyn EventStore>;
    let listener = Store::from(inner).with_source("shipping");
    let inbox = Runner::new(&listener).inbox::<OrderMessage>(&services.faulty.bus()).start();
    let patience = tokio::time::Instant::now() + Duration::from_secs(30);
    for n in 0..40 {
        breaks.store(usize::try_from(n % 4)?, Ordering::SeqCst);
        services.place("o7", [n]).await?;
        relay.settle().await?;
        let received = async || Ok::<_, Any>(services.received().await?.len());
        while received().await? <= usize::try_from(n)? {
            assert!(tokio::time::Instant::now() < patience, "{:?}", services.received().await?);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    assert_eq!(services.received().await?, of("o7", 0..40));
    inbox.stop().await;
    relay.stop().await;
    Ok(())
}

#[tokio::test]
async fn i3_several_nodes_record_the_messages_of_a_key_in_order() -> Result<(), Any> {
    let services = services().await;
    let relay = services.relay();
    for turn in 0..6 {
        let node = || {
            Runner::new(&services.listener)
                .inbox::<OrderMessage>(&services.faulty.bus())
                .shards(3)
                .lease(Duration::from_millis(200))
                .start()
        };
        let (one, other) = (node(), node());
        for key in ["a", "b", "c"] {
            services.place(key, turn * 20..(turn + 1) * 20).await?;
        }
        relay.settle().await?;
        one.stop().await;
        other.settle().await?;
        other.stop().await;
    }
    let received = services.received().await?;
    for key in ["a", "b", "c"] {
        let mine: Vec<_> = received.iter().filter(|(one, _)| one == key).cloned().collect();
        assert_eq!(mine, of(key, 0..120));
    }
    relay.stop().await;
    Ok(())
}

#[tokio::test]
async fn i4_what_is_no_message_is_kept_and_the_others_go_on() -> Result<(), Any> {
    let services = services().await;
    services.faulty.garbled.lock().unwrap().insert("bad".into());
    services.place("o1", [1]).await?;
    services.place("bad", [2]).await?;
    services.place("o1", [3]).await?;
    let (relay, inbox) = (services.relay(), services.inbox());
    relay.settle().await?;
    inbox.settle().await?;
    assert_eq!(services.received().await?, of("o1", [1, 3]));
    let inboxes = services.listener.inboxes();
    let rejected = inboxes.rejected("orders").await?;
    let [one] = &rejected[..] else { panic!("{rejected:?}") };
    assert_eq!((&*one.body, one.attempts, &*one.group), (&b"\0garbled"[..], 1, "shipping"));
    assert!(one.reason.contains("JSON") && !one.headers.is_empty(), "{one:?}");
    // Its headers are those of a message, and its body is none: it is recorded as it is.
    assert!(inboxes.retry::<OrderMessage>(&one.id).await?);
    assert!(inboxes.rejected("orders").await?.is_empty());
    assert!(!inboxes.retry::<OrderMessage>(&one.id).await?, "there is none any more");
    assert_eq!(services.listener.read().category("in.orders").count().await?, 3);
    services.place("bad", [4]).await?;
    relay.settle().await?;
    inbox.settle().await?;
    let rejected = inboxes.rejected("orders").await?;
    assert!(inboxes.discard(&rejected[0].id).await? && !inboxes.discard(&rejected[0].id).await?);
    assert!(inboxes.rejected("orders").await?.is_empty());
    relay.stop().await;
    inbox.stop().await;
    Ok(())
}

/// A bus of another program, in its own words.
async fn publish_by_hand(bus: &Store, envelopes: Vec<Envelope>) {
    let outcomes = LogBus::new(bus).publish("orders", &envelopes).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done)), "{outcomes:?}");
}

#[tokio::test]
async fn i4_types_that_a_program_does_not_name_are_passed_over_and_ids_of_others_are_kept() -> Result<(), Any> {
    let services = services().await;
    let placed = br#"{"orderId":"o1","totalCents":5}"#.to_vec();
    let mut expired = Envelope::new("e-1", "other", "order.placed", "o1", placed.clone());
    expired.extensions.insert("expires".into(), "2020-01-01T00:00:00Z".into());
    let mut newer = Envelope::new("n-1", "other", "order.placed", "o3", placed.clone());
    newer.version = 7;
    publish_by_hand(
        &services.bus.store,
        vec![
            Envelope::new("x-1", "other", "order.unknown", "o1", b"{}".to_vec()),
            Envelope::new("x-2", "other", "order.placed", "o1", placed.clone()),
            Envelope::new("x-2", "another", "order.placed", "o2", placed.clone()),
            expired,
            newer,
        ],
    )
    .await;
    let inbox = services.inbox();
    inbox.settle().await?;
    let received: Vec<_> = services.listener.read().category("in.orders").raw().try_collect().await?;
    let names: Vec<_> = received.iter().map(|event| (&*event.data.name, event.schema)).collect();
    let placed = "orders:order.placed";
    assert_eq!(names, [(placed, 1), (placed, 1), ("orders:$expired", 1), (placed, 7)]);
    assert_eq!(received[0].metadata.extra["id"], "x-2");
    assert_eq!(received[2].metadata.extra["type"], "order.placed");
    assert_ne!(received[0].id, received[1].id, "the same id of two sources is two messages");
    assert!(services.listener.inboxes().rejected("orders").await?.is_empty());
    inbox.stop().await;
    Ok(())
}

#[tokio::test]
async fn b1_each_group_gets_every_message_from_where_it_begins() -> Result<(), Any> {
    let services = services().await;
    let relay = services.relay();
    services.place("o1", [1, 2]).await?;
    relay.settle().await?;
    let bus = services.faulty.bus();
    let late = world().await;
    let group = |start| Inbox::<OrderMessage>::new(&bus).group("late").start(start);
    let inbox = Runner::new(&late.store).inbox(group(Start::Latest)).start();
    inbox.settle().await?;
    services.place("o1", [3]).await?;
    relay.settle().await?;
    inbox.settle().await?;
    inbox.stop().await;
    // What is said of a beginning does not count any more.
    let inbox = Runner::new(&late.store).inbox(group(Start::Earliest)).start();
    services.place("o1", [4]).await?;
    relay.settle().await?;
    inbox.settle().await?;
    inbox.stop().await;
    assert_eq!(cents(late.store.read().category("in.orders").raw()).await?, of("o1", [3, 4]));
    let inbox = services.inbox();
    inbox.settle().await?;
    assert_eq!(services.received().await?, of("o1", 1..5));
    inbox.stop().await;
    relay.stop().await;
    Ok(())
}

/// A node that stands still in the middle of a batch finds, when it goes on, that its shard is another node's.
#[tokio::test]
async fn i6_a_node_that_was_frozen_records_nothing_and_moves_no_offset() -> Result<(), Any> {
    let services = services().await;
    let frozen = services.listener.clone();
    let down = Arc::new(AtomicBool::new(false));
    let inner = Arc::new(Between::new(&services.shipping.inner).down_while(&down)) as Arc<dyn EventStore>;
    let first = Runner::new(&Store::from(inner).with_source("shipping"))
        .inbox::<OrderMessage>(&services.faulty.bus())
        .lease(Duration::from_millis(300))
        .start();
    let relay = services.relay();
    services.place("o1", [1]).await?;
    relay.settle().await?;
    first.settle().await?;
    // It reaches the bus, and not its own database.
    down.store(true, Ordering::SeqCst);
    services.place("o1", [2, 3]).await?;
    relay.settle().await?;
    let second =
        Runner::new(&frozen).inbox::<OrderMessage>(&services.faulty.bus()).lease(Duration::from_millis(300)).start();
    second.settle().await?;
    assert_eq!(services.received().await?, of("o1", 1..4));
    down.store(false, Ordering::SeqCst);
    services.place("o1", [4]).await?;
    relay.settle().await?;
    second.settle().await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(services.received().await?, of("o1", 1..5));
    first.stop().await;
    second.stop().await;
    relay.stop().await;
    Ok(())
}

/// The bus was restored from a backup, and has other messages at the same positions.
#[tokio::test]
async fn i7_an_offset_that_the_topic_does_not_have_stops_the_inbox() -> Result<(), Any> {
    let services = services().await;
    let relay = services.relay();
    services.place("o1", [1, 2]).await?;
    relay.settle().await?;
    let inbox = services.inbox();
    inbox.settle().await?;
    inbox.stop().await;
    relay.stop().await;
    let other = world().await;
    let placed = br#"{"orderId":"o1","totalCents":5}"#.to_vec();
    let new = |n: usize| Envelope::new(format!("{n}"), "other", "order.placed", "o1", placed.clone());
    publish_by_hand(&other.store, (0..5).map(new).collect()).await;
    let bus: Bus = LogBus::new(&other.store).into();
    let inbox = Runner::new(&services.listener).inbox::<OrderMessage>(&bus).start();
    services.listener.append(StreamId::new("purchase", "o1"), Expected::Any, [PurchaseEvent::Shipped]).await?;
    let late = tokio::time::Instant::now() + Duration::from_secs(10);
    while inbox.status()[0].state != State::Failed && tokio::time::Instant::now() < late {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let error = inbox.status()[0].error.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(error.contains("does not have the messages after offset 2/"), "{error}");
    assert_eq!(services.received().await?, of("o1", [1, 2]), "it has not jumped");
    inbox.stop().await;
    Ok(())
}

#[tokio::test]
async fn b5_several_relays_to_one_topic_publish_each_message_once() -> Result<(), Any> {
    let services = services().await;
    let other = world().await;
    let second = other.store.clone().with_source("orders.two");
    let bus = services.faulty.bus();
    let relays = [
        Runner::new(&services.publisher).relay::<OrderMessage>(&bus).shards(4).batch(3).start(),
        Runner::new(&services.publisher).relay::<OrderMessage>(&bus).shards(4).batch(3).start(),
        Runner::new(&second).relay(Relay::<OrderMessage>::new(&bus).name("second")).batch(3).start(),
    ];
    for n in 0..40 {
        services.place(&format!("o{}", n % 7), [n]).await?;
        second
            .append(StreamId::new("purchase", "x"), Expected::Any, [PurchaseEvent::Placed { cents: 1_000 + n }])
            .await?;
    }
    relays[0].settle().await?;
    relays[2].settle().await?;
    let published = services.published().await?;
    assert_eq!(published.len(), 80);
    for key in 0..7 {
        let key = format!("o{key}");
        let mine: Vec<_> = published.iter().filter(|(one, _)| *one == key).map(|(_, cents)| *cents).collect();
        assert!(mine.is_sorted(), "{mine:?}");
    }
    for relay in relays {
        relay.stop().await;
    }
    Ok(())
}

#[tokio::test]
async fn r1_a_topic_is_named_by_the_type() -> Result<(), Any> {
    assert_eq!(OrderMessage::TOPIC, "orders");
    assert_eq!(OrderMessage::NAMES, ["orders:order.placed", "orders:order.shipped"]);
    let _ = Id::<super::account::Account>::from("ann");
    Ok(())
}

// A service that asks another to charge a card, and is answered.

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "payments.charge")]
pub struct Charge {
    order: String,
    cents: i64,
}

/// Asks for a payment of each order that was placed.
struct PayForOrders;

impl Reactor for PayForOrders {
    const NAME: &'static str = "pay_for_orders";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = PurchaseEvent;

    fn react(&self, event: &Recorded<PurchaseEvent>) -> Commands {
        match event.data {
            PurchaseEvent::Placed { cents } => ask("payments", Charge { order: event.stream.key().into(), cents }),
            _ => Commands::none(),
        }
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "payments", topic = "payments.commands")]
enum PaymentCommand {
    Charge { order: String, cents: i64 },
}

#[derive(Event, Clone, Debug, PartialEq)]
enum CardEvent {
    Charged { cents: i64 },
    Declined { cents: i64 },
}

#[derive(Aggregate)]
struct Card {
    charged: i64,
}

impl Evolve for Card {
    type Event = CardEvent;

    fn evolve(&mut self, event: CardEvent) {
        if let CardEvent::Charged { cents } = event {
            self.charged += cents;
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct ChargeCard(i64);

impl Decide<ChargeCard> for Card {
    fn decide(&self, ChargeCard(cents): ChargeCard) -> Decision<Self> {
        Ok(vec![if cents > 100 { CardEvent::Declined { cents } } else { CardEvent::Charged { cents } }])
    }
}

struct ChargeCards;

impl Reactor for ChargeCards {
    const NAME: &'static str = "charge_cards";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = PaymentCommand;

    fn react(&self, event: &Recorded<PaymentCommand>) -> Commands {
        let PaymentCommand::Charge { order, cents } = &event.data;
        send(Id::<Card>::from(order.as_str()), ChargeCard(*cents))
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "payment", topic = "payments")]
enum PaymentMessage {
    Completed { order: String, cents: i64 },
    Failed { order: String },
}

impl Publish for PaymentMessage {
    type From = CardEvent;

    fn publish(event: &Recorded<CardEvent>) -> Vec<Self> {
        let order = event.stream.key().to_owned();
        match event.data {
            CardEvent::Charged { cents } => vec![Self::Completed { order, cents }],
            CardEvent::Declined { .. } => vec![Self::Failed { order }],
        }
    }
}

#[tokio::test]
async fn i5_a_command_that_another_service_is_asked_for_is_executed_once_and_answered() -> Result<(), Any> {
    let mut services = services().await;
    services.faulty.repeats = 2;
    services.faulty.unconfirmed.store(2, Ordering::SeqCst);
    let bus = services.faulty.bus();
    let (orders, payments) = (services.publisher.clone(), services.listener.clone());
    let asking = Runner::new(&orders)
        .reactor(PayForOrders)
        .relay_commands("payments", &bus)
        .inbox::<PaymentMessage>(&bus)
        .start();
    let paying =
        Runner::new(&payments).inbox::<PaymentCommand>(&bus).reactor(ChargeCards).relay::<PaymentMessage>(&bus).start();
    services.place("o1", [30, 40]).await?;
    services.place("o2", [500]).await?;
    for _ in 0..2 {
        asking.settle().await?;
        paying.settle().await?;
    }
    asking.settle().await?;
    let answers: Vec<_> = services.publisher.read().events::<PaymentMessage>().try_collect::<Vec<_>>().await?;
    let mut answered: Vec<_> = answers.iter().map(|answer| format!("{:?}", answer.data)).collect();
    answered.sort();
    assert_eq!(
        answered,
        [
            r#"Completed { order: "o1", cents: 30 }"#,
            r#"Completed { order: "o1", cents: 40 }"#,
            r#"Failed { order: "o2" }"#,
        ]
    );
    assert_eq!(services.listener.load(Id::<Card>::from("o1")).await?.state.charged, 70);
    let commands: Vec<_> = services.bus.store.read().category("payments.commands").raw().try_collect().await?;
    assert_eq!(commands.len(), 3);
    assert_eq!((&*commands[0].data.name, commands[0].schema), ("payments.charge", 1));
    // All of it is one conversation.
    let conversations: HashSet<_> = answers.iter().map(|answer| answer.metadata.correlation_id).collect();
    let own: Vec<_> = services.publisher.read().events::<PurchaseEvent>().try_collect::<Vec<_>>().await?;
    assert_eq!(conversations, own.iter().map(|event| event.metadata.correlation_id).collect());
    asking.stop().await;
    paying.stop().await;
    Ok(())
}
