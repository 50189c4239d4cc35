//! Relays and inboxes over buses with several partitions, over queues, and through what operators and crashes do.

use std::{
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventstore::{
    Bus, BusError, Envelope, Expected, Inbox, LogBus, Processors, Publish, ReadInboxes, RunMessaging, Start, State,
    Store, StreamId, prelude::*,
};
use eventstore_messaging::{
    Abilities, Delivered, Delivery, Kind, Last, Offset, Order, Outcome, Publisher, Source, Unread, partition,
};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};

use super::{
    messages::{OrderMessage, PurchaseEvent},
    world,
};

type Any = Box<dyn Error>;

#[derive(Clone)]
struct Fake {
    parts: Arc<Mutex<Vec<Vec<Envelope>>>>,
    done: Arc<Mutex<Vec<usize>>>,
    active: Arc<Vec<Arc<tokio::sync::Mutex<()>>>>,
    kind: Kind,
    order: Order,
    partitions: u16,
    reads: Arc<AtomicUsize>,
    lags: Arc<AtomicUsize>,
    bad_offset: bool,
    broken: Arc<AtomicBool>,
    hang_lag: Arc<AtomicBool>,
    hang_read: Arc<AtomicBool>,
    one_offset: bool,
}

impl Fake {
    fn new(partitions: u16, order: Order, kind: Kind) -> Self {
        Self {
            parts: Arc::new(Mutex::new(vec![vec![]; partitions.into()])),
            done: Arc::new(Mutex::new(vec![0; partitions.into()])),
            active: Arc::new((0..partitions).map(|_| Arc::default()).collect()),
            kind,
            order,
            partitions,
            reads: Arc::default(),
            lags: Arc::default(),
            bad_offset: false,
            broken: Arc::default(),
            hang_lag: Arc::default(),
            hang_read: Arc::default(),
            one_offset: false,
        }
    }

    fn bus(&self) -> Bus {
        Bus::new(self.clone())
    }

    fn abilities(&self) -> Abilities {
        Abilities::new(self.order, self.kind).partitions(self.partitions)
    }

    fn put(&self, message: Envelope) {
        let place = usize::from(partition(&message.key, self.partitions));
        let mut parts = self.parts.lock().unwrap();
        if !parts[place].iter().any(|there| there.id == message.id) {
            parts[place].push(message);
        }
    }

    fn len(&self) -> usize {
        self.parts.lock().unwrap().iter().map(Vec::len).sum()
    }

    /// A message for each partition.
    fn put_each(&self, turn: usize) {
        for wanted in 0..self.partitions {
            let key = (0..).map(|n| format!("k{n}")).find(|key| partition(key, self.partitions) == wanted).unwrap();
            self.put(placed(&format!("{turn}-{wanted}"), &key));
        }
    }
}

fn placed(id: &str, key: &str) -> Envelope {
    Envelope::new(id, "other", "order.placed", key, br#"{"orderId":"o1","totalCents":5}"#.to_vec())
}

#[async_trait::async_trait]
impl Publisher for Fake {
    async fn topic(&self, _: &str) -> Result<Abilities, BusError> {
        Ok(self.abilities())
    }

    async fn publish(&self, _: &str, messages: &[Envelope]) -> Vec<Outcome> {
        messages.iter().cloned().for_each(|message| self.put(message));
        messages.iter().map(|_| Outcome::Done).collect()
    }

    async fn last(&self, _: &str, partitions: std::ops::Range<u16>) -> Result<Vec<Option<Last>>, BusError> {
        Ok(vec![None; partitions.len()])
    }
}

#[async_trait::async_trait]
impl Source for Fake {
    async fn subscribe(&self, _: &str, _: &str) -> Result<Abilities, BusError> {
        Ok(self.abilities())
    }

    async fn offset(&self, _: &str, partition: u16, start: Start) -> Result<Option<Offset>, BusError> {
        let len = self.parts.lock().unwrap()[usize::from(partition)].len();
        Ok(if start == Start::Earliest || len == 0 { None } else { Some(Offset(len.to_string())) })
    }

    async fn read(
        &self,
        _: &str,
        _: &str,
        partition: u16,
        after: Option<Offset>,
    ) -> Result<BoxStream<'static, Result<Delivery, BusError>>, BusError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let place = usize::from(partition);
        if self.hang_read.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.broken.load(Ordering::SeqCst) {
            let late = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Err(BusError::unavailable("cut"))
            };
            return Ok(futures::stream::once(late).boxed());
        }
        let this = self.clone();
        let next = after.map_or(0, |offset| offset.0.parse().unwrap());
        let stream = futures::stream::unfold((next, None), move |(mut next, mut guard)| {
            let this = this.clone();
            async move {
                if this.kind == Kind::Queue && guard.is_none() {
                    // One active consumer: the others wait until it is dropped.
                    guard = Some(this.active[place].clone().lock_owned().await);
                    next = this.done.lock().unwrap()[place];
                }
                loop {
                    let message = this.parts.lock().unwrap()[place].get(next).cloned();
                    if let Some(message) = message {
                        next += 1;
                        let offset = Offset(next.to_string());
                        let mut delivery =
                            Delivery { offset: offset.clone(), receipt: Some(offset.0), message: Ok(message.clone()) };
                        if message.key == "bad" {
                            let body = message.data.clone();
                            let reason = Envelope::read(&[], vec![0]).unwrap_err();
                            delivery.message = Err(Unread { reason, headers: vec![], body });
                            if this.one_offset {
                                delivery.offset = Offset("1".into());
                            }
                            if this.bad_offset {
                                delivery.offset = Offset("my\nid".into());
                            }
                        }
                        return Some((Ok(delivery), (next, guard)));
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            }
        });
        Ok(stream.boxed())
    }

    async fn done(&self, _: &str, _: &str, partition: u16, all: &[Delivered]) -> Result<(), BusError> {
        let last = all.iter().map(|one| one.receipt.as_ref().unwrap().parse().unwrap()).max().unwrap_or(0);
        let done = &mut self.done.lock().unwrap()[usize::from(partition)];
        *done = last.max(*done);
        Ok(())
    }

    async fn lag(&self, _: &str, _: &str, partition: u16, after: Option<&Offset>) -> Result<u64, BusError> {
        self.lags.fetch_add(1, Ordering::SeqCst);
        if self.hang_lag.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let place = usize::from(partition);
        let len = self.parts.lock().unwrap()[place].len();
        let at = match self.kind {
            Kind::Log => after.map_or(0, |offset| offset.0.parse().unwrap()),
            Kind::Queue => self.done.lock().unwrap()[place],
        };
        Ok((len - at) as u64)
    }
}

/// Waits until a store has so many messages; returns how many it has.
async fn received(store: &Store, wanted: u64, within: Duration) -> Result<u64, Any> {
    let late = tokio::time::Instant::now() + within;
    loop {
        let count = store.read().category("in.orders").count().await?;
        if count >= wanted || tokio::time::Instant::now() > late {
            return Ok(count);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const SOON: Duration = Duration::from_secs(4);

#[tokio::test]
async fn i3_an_inbox_whose_shards_are_joined_reads_all_partitions() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let fake = Fake::new(4, Order::Prefix, Kind::Log);
    let inbox = Runner::new(&store).inbox::<OrderMessage>(&fake.bus()).shards(2).start();
    fake.put_each(0);
    assert_eq!(received(&store, 4, SOON).await?, 4, "before");
    inbox.reshard("inbox:orders", 1).await?;
    fake.put_each(1);
    let got = received(&store, 8, SOON).await?;
    inbox.stop().await;
    assert_eq!(got, 8, "after the reshard");
    Ok(())
}

#[tokio::test]
async fn i3_a_shard_that_moves_to_another_node_is_read_there() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let fake = Fake::new(2, Order::Key, Kind::Queue);
    let node =
        || Runner::new(&store).inbox::<OrderMessage>(&fake.bus()).shards(2).lease(Duration::from_millis(300)).start();
    let one = node();
    fake.put_each(0);
    assert_eq!(received(&store, 2, SOON).await?, 2, "before");
    let two = node();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    fake.put_each(1);
    let got = received(&store, 4, SOON).await?;
    let owners: std::collections::HashSet<_> = one.status()[0].shards.iter().map(|(_, at)| at.owner).collect();
    one.stop().await;
    let after = received(&store, 4, SOON).await?;
    two.stop().await;
    assert_eq!(got, 4, "with two nodes ({} owners); {after} once the first has stopped", owners.len());
    Ok(())
}

#[tokio::test]
async fn i1_a_rebuild_of_an_idle_inbox_reads_the_topic_again() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let fake = Fake::new(1, Order::Prefix, Kind::Log);
    fake.put_each(0);
    let inbox = Runner::new(&store).inbox::<OrderMessage>(&fake.bus()).start();
    inbox.settle().await?;
    let reads = fake.reads.load(Ordering::SeqCst);
    inbox.rebuild("inbox:orders").await?;
    tokio::time::sleep(SOON).await;
    let (again, offsets) = (fake.reads.load(Ordering::SeqCst), store.inboxes().offsets("orders").await?);
    inbox.stop().await;
    assert!(again > reads, "it was not read again: {reads} {again} {offsets:?}");
    Ok(())
}

#[tokio::test]
async fn i7_a_rebuild_does_not_jump_over_what_was_not_read() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let fake = Fake::new(1, Order::Prefix, Kind::Log);
    fake.put_each(0);
    let run = || Runner::new(&store).inbox(Inbox::<OrderMessage>::new(&fake.bus()).start(Start::Latest)).start();
    let inbox = run();
    inbox.settle().await?;
    fake.put_each(1);
    inbox.settle().await?;
    assert_eq!(received(&store, 1, SOON).await?, 1);
    inbox.stop().await;
    // While no node runs, messages come; an operator then has the topic read again.
    fake.put_each(2);
    Processors::new(&store).rebuild("inbox:orders").await?;
    let inbox = run();
    let got = received(&store, 3, SOON).await?;
    inbox.stop().await;
    assert_eq!(got, 3);
    Ok(())
}

#[tokio::test]
async fn r1_a_rebuild_of_a_relay_publishes_what_the_topic_lost() -> Result<(), Any> {
    let orders = world().await;
    let store = orders.store.clone().with_source("orders");
    let fake = Fake::new(1, Order::Key, Kind::Log);
    let relay = Runner::new(&store).relay::<OrderMessage>(&fake.bus()).start();
    let events = (1..4).map(|cents| PurchaseEvent::Placed { cents });
    store.append(StreamId::new("purchase", "o1"), Expected::Any, events).await?;
    relay.settle().await?;
    assert_eq!(fake.len(), 3);
    fake.parts.lock().unwrap()[0].clear();
    relay.rebuild("relay:orders").await?;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    relay.settle().await?;
    relay.stop().await;
    assert_eq!(fake.len(), 3, "after the rebuild");
    Ok(())
}

/// The same events, as an earlier release names them.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "order")]
enum OldPurchase {
    Placed { cents: i64 },
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "order", topic = "orders", rename_all = "camelCase")]
enum OldMessage {
    Placed { order_id: String, total_cents: i64 },
}

impl Publish for OldMessage {
    type From = OldPurchase;

    fn publish(event: &Recorded<OldPurchase>) -> Vec<Self> {
        let OldPurchase::Placed { cents } = event.data;
        vec![Self::Placed { order_id: event.stream.key().into(), total_cents: cents }]
    }
}

#[tokio::test]
async fn r1_missed_events_are_published_when_an_operator_says_so() -> Result<(), Any> {
    let (orders, bus) = (world().await, world().await);
    let store = orders.store.clone().with_source("orders");
    let to: Bus = LogBus::new(&bus.store).into();
    let placed = |cents| PurchaseEvent::Placed { cents };
    store
        .append(StreamId::new("purchase", "o1"), Expected::Any, [placed(1), PurchaseEvent::Shipped, placed(2)])
        .await?;
    let relay = Runner::new(&store).relay::<OldMessage>(&to).start();
    relay.settle().await?;
    relay.stop().await;
    assert_eq!(bus.store.read().category("orders").count().await?, 2);
    let relay = Runner::new(&store).relay::<OrderMessage>(&to).start();
    let late = tokio::time::Instant::now() + SOON;
    while relay.status()[0].state != State::Failed && tokio::time::Instant::now() < late {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{:?}", relay.status()[0].error);
    relay.deliver_missed("relay:orders").await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let settled = relay.settle().await;
    relay.stop().await;
    assert_eq!(bus.store.read().category("orders").count().await?, 3, "{settled:?}");
    Ok(())
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "payment", topic = "payments")]
enum OtherTopic {
    Done,
}

#[tokio::test]
async fn i4_a_retry_for_another_topic_loses_nothing() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let fake = Fake::new(1, Order::Prefix, Kind::Log);
    fake.put(placed("1", &"x".repeat(600)));
    let inbox = Runner::new(&store).inbox::<OrderMessage>(&fake.bus()).start();
    inbox.settle().await?;
    inbox.stop().await;
    let rejected = store.inboxes().rejected("orders").await?;
    assert_eq!(rejected.len(), 1);
    let retried = store.inboxes().retry::<OtherTopic>(&rejected[0].id).await;
    let left = store.inboxes().rejected("orders").await?.len();
    assert_eq!(left, 1, "{retried:?}");
    Ok(())
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "order", topic = "orders")]
enum Upcasting {
    #[event(version = 2, upcast(1 => from_v1))]
    Placed {
        #[event(tag = "order")]
        order: String,
    },
}

#[derive(serde::Deserialize)]
struct V1 {
    order: String,
}

fn from_v1(old: V1) -> Upcasting {
    Upcasting::Placed { order: old.order.split_once('-').expect("an order has a number").1.to_owned() }
}

#[tokio::test]
async fn i4_a_message_that_an_upcast_panics_on_does_not_stop_the_others() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let fake = Fake::new(1, Order::Prefix, Kind::Log);
    let v1 = |id: &str, order: &str| {
        Envelope::new(id, "other", "order.placed", "k", format!(r#"{{"order":"{order}"}}"#).into_bytes())
    };
    fake.put(v1("1", "o-1"));
    fake.put(v1("2", "poison"));
    fake.put(v1("3", "o-3"));
    let inbox = Runner::new(&store).inbox::<Upcasting>(&fake.bus()).start();
    let got = received(&store, 2, SOON).await?;
    let status = inbox.status().remove(0);
    inbox.stop().await;
    assert!(got >= 2, "{got} are recorded: {:?} {:?}", status.state, status.error);
    Ok(())
}

#[tokio::test]
async fn i4_a_delivery_with_a_strange_offset_does_not_block() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let mut fake = Fake::new(1, Order::Key, Kind::Queue);
    fake.bad_offset = true;
    fake.put(placed("1", "bad"));
    fake.put(placed("2", "good"));
    let inbox = Runner::new(&store).inbox::<OrderMessage>(&fake.bus()).start();
    let got = received(&store, 1, SOON).await?;
    let status = inbox.status().remove(0);
    inbox.stop().await;
    assert_eq!(got, 1, "{:?} {:?}", status.state, status.error);
    Ok(())
}

#[tokio::test]
async fn i2_a_lag_that_hangs_stops_no_messages() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let fake = Fake::new(1, Order::Prefix, Kind::Log);
    fake.hang_lag.store(true, Ordering::SeqCst);
    let inbox = Runner::new(&store).inbox::<OrderMessage>(&fake.bus()).start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    fake.put_each(0);
    let got = received(&store, 1, SOON).await?;
    let stopped = tokio::time::timeout(Duration::from_secs(5), inbox.stop()).await.is_ok();
    assert!(got == 1 && stopped, "recorded {got}, stopped {stopped}");
    Ok(())
}

#[tokio::test]
async fn r6_an_empty_tracestate_parks_no_message() -> Result<(), Any> {
    let (orders, bus) = (world().await, world().await);
    let store = orders.store.clone().with_source("orders");
    store
        .append(StreamId::new("purchase", "o1"), Expected::Any, [PurchaseEvent::Shipped])
        .metadata("tracestate", "")
        .await?;
    let relay = Runner::new(&store).relay::<OrderMessage>(&LogBus::new(&bus.store).into()).start();
    let settled = relay.settle().await;
    relay.stop().await;
    assert!(settled.is_ok(), "{settled:?}");
    Ok(())
}

/// The bus hangs once; an operator pauses the inbox and resumes it.
#[tokio::test]
async fn i6_a_pause_ends_a_reading_that_hangs() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let fake = Fake::new(1, Order::Prefix, Kind::Log);
    fake.hang_read.store(true, Ordering::SeqCst);
    let inbox = Runner::new(&store).inbox::<OrderMessage>(&fake.bus()).lease(Duration::from_millis(500)).start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    inbox.pause("inbox:orders").await?;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    fake.hang_read.store(false, Ordering::SeqCst);
    inbox.resume("inbox:orders").await?;
    fake.put_each(0);
    let got = received(&store, 1, SOON).await?;
    let status = inbox.status().remove(0);
    let stopped = tokio::time::timeout(Duration::from_secs(5), inbox.stop()).await.is_ok();
    assert!(got == 1, "{got} {:?} {:?} stopped {stopped}", status.state, status.error);
    Ok(())
}

#[tokio::test]
async fn i1_a_body_that_says_its_charset_is_tagged() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let fake = Fake::new(1, Order::Prefix, Kind::Log);
    let mut message = placed("1", "k");
    message.content_type = Some("application/json; charset=utf-8".into());
    fake.put(message);
    let inbox = Runner::new(&store).inbox::<OrderMessage>(&fake.bus()).start();
    inbox.settle().await?;
    inbox.stop().await;
    let read: Vec<_> = store.read().events::<OrderMessage>().try_collect::<Vec<_>>().await?;
    assert_eq!(read.len(), 1, "it is read as a message");
    assert_eq!(store.read().tag(eventstore::Tag::new("order", "o1")).count().await?, 1);
    Ok(())
}

#[tokio::test]
async fn i4_what_is_too_large_is_kept_and_the_others_go_on() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let fake = Fake::new(1, Order::Prefix, Kind::Log);
    let mut large = placed("1", "k");
    large.data = vec![b'1'; 20 << 20];
    fake.put(large);
    let mut many = placed("2", "k");
    (0..10).for_each(|n| _ = many.extensions.insert(format!("x{n}"), "y".repeat(8_000)));
    fake.put(many);
    let mut empty = placed("3", "k");
    empty.data = br#"{"orderId":"","totalCents":1}"#.to_vec();
    fake.put(empty);
    fake.put(placed("4", "k"));
    let inbox = Runner::new(&store).inbox::<OrderMessage>(&fake.bus()).start();
    let got = received(&store, 1, SOON).await?;
    let status = inbox.status().remove(0);
    inbox.stop().await;
    let rejected = store.inboxes().rejected("orders").await?;
    let reasons: Vec<_> = rejected.iter().map(|one| format!("{:.120} {}", one.reason, one.body.len())).collect();
    println!("b26 {reasons:#?}");
    assert_eq!((got, rejected.len()), (1, 3), "{:?} {:?}", status.state, status.error);
    Ok(())
}

/// The first delivery of an id cannot be recorded; another can.
#[tokio::test]
async fn i4_what_is_rejected_hides_no_other_delivery_of_its_id() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let fake = Fake::new(1, Order::Prefix, Kind::Log);
    {
        let mut parts = fake.parts.lock().unwrap();
        parts[0].push(placed("1", &"x".repeat(600)));
        parts[0].push(placed("1", "k"));
    }
    let inbox = Runner::new(&store).inbox::<OrderMessage>(&fake.bus()).start();
    inbox.settle().await?;
    inbox.stop().await;
    assert_eq!(received(&store, 1, Duration::ZERO).await?, 1);
    Ok(())
}

/// The offset of a queue is the id that the publisher gave: two deliveries may have one.
#[tokio::test]
async fn i4_each_delivery_that_is_no_message_is_kept() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let mut fake = Fake::new(1, Order::Key, Kind::Queue);
    fake.one_offset = true;
    for n in 0..3 {
        let mut bad = placed(&n.to_string(), "bad");
        bad.data = format!("bytes {n}").into_bytes();
        fake.put(bad);
    }
    fake.put(placed("9", "good"));
    let inbox = Runner::new(&store).inbox::<OrderMessage>(&fake.bus()).start();
    received(&store, 1, SOON).await?;
    inbox.stop().await;
    assert_eq!(store.inboxes().rejected("orders").await?.len(), 3);
    Ok(())
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "shape", topic = "shapes", rename_all = "SCREAMING-KEBAB-CASE")]
enum Shapes {
    Named {
        first_name: String,
        #[serde(rename = "plain_one")]
        other_name: i64,
        r#type: Option<String>,
    },
    Tuple(i64, String),
    One(Inner),
    Unit,
}

#[derive(serde::Serialize, serde::Deserialize, Clone, Debug, PartialEq)]
struct Inner {
    inner_name: i64,
}

#[tokio::test]
async fn l1_what_is_renamed_is_read_as_it_is_written() -> Result<(), Any> {
    let all = [
        Shapes::Named { first_name: "a".into(), other_name: 1, r#type: None },
        Shapes::Tuple(1, "b".into()),
        Shapes::One(Inner { inner_name: 1 }),
        Shapes::Unit,
    ];
    for shape in all {
        let body = shape.encode()?;
        println!("b63 {} {}", shape.name(), String::from_utf8_lossy(&body));
        let mut read = vec![];
        Shapes::decode(shape.name(), shape.schema(), &body, &mut |one| read.push(one))?;
        assert_eq!(read, [shape]);
    }
    Ok(())
}

/// A log bus that does not take the messages of a key, and confirms those of others late.
#[derive(Clone)]
struct Uneven {
    inner: Arc<LogBus>,
    /// Messages of these keys are not published.
    cut: Arc<Mutex<Vec<String>>>,
    /// What was published is not confirmed while this has no permit.
    confirm: Arc<tokio::sync::Semaphore>,
}

#[async_trait::async_trait]
impl Publisher for Uneven {
    async fn topic(&self, topic: &str) -> Result<Abilities, BusError> {
        self.inner.topic(topic).await
    }

    async fn publish(&self, topic: &str, messages: &[Envelope]) -> Vec<Outcome> {
        if messages.iter().any(|message| self.cut.lock().unwrap().contains(&message.key)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            return vec![Outcome::Failed(BusError::unavailable("cut"))];
        }
        let outcomes = self.inner.publish(topic, messages).await;
        let _permit = self.confirm.acquire().await;
        outcomes
    }

    async fn last(&self, topic: &str, partitions: std::ops::Range<u16>) -> Result<Vec<Option<Last>>, BusError> {
        self.inner.last(topic, partitions).await
    }
}

#[async_trait::async_trait]
impl Source for Uneven {
    async fn subscribe(&self, topic: &str, group: &str) -> Result<Abilities, BusError> {
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
        self.inner.read(topic, group, partition, after).await
    }

    async fn lag(&self, topic: &str, group: &str, partition: u16, after: Option<&Offset>) -> Result<u64, BusError> {
        self.inner.lag(topic, group, partition, after).await
    }
}

/// Two keys of the two shards.
fn keys() -> [String; 2] {
    [0, 1].map(|wanted| (0..).map(|n| format!("k{n}")).find(|key| partition(key, 2) == wanted).unwrap())
}

/// A relay of two shards is made one of one shard while the bus is slow.
#[tokio::test]
async fn r1_a_reshard_of_a_relay_loses_no_message() -> Result<(), Any> {
    let (orders, bus) = (world().await, world().await);
    let store = orders.store.clone().with_source("orders");
    let [a, b] = keys();
    let uneven = Uneven {
        inner: Arc::new(LogBus::new(&bus.store)),
        cut: Arc::new(Mutex::new(vec![b.clone()])),
        confirm: Arc::new(tokio::sync::Semaphore::new(0)),
    };
    let relay = Runner::new(&store).relay::<OrderMessage>(&Bus::new(uneven.clone())).shards(2).start();
    relay.settle().await?;
    let place = |cents| [PurchaseEvent::Placed { cents }];
    store.append(StreamId::new("purchase", &b), Expected::Any, place(1)).await?;
    store.append(StreamId::new("purchase", &a), Expected::Any, place(2)).await?;
    let late = tokio::time::Instant::now() + SOON;
    while bus.store.read().category("orders").count().await? < 1 && tokio::time::Instant::now() < late {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let resharded = tokio::time::timeout(SOON, relay.reshard("relay:orders", 1)).await;
    uneven.cut.lock().unwrap().clear();
    uneven.confirm.add_permits(1_000);
    let settled = relay.settle().await;
    let shards = relay.status()[0].shards.len();
    relay.stop().await;
    let published: Vec<_> = bus.store.read().category("orders").raw().try_collect::<Vec<_>>().await?;
    let published: Vec<_> = published.iter().map(|event| event.stream.key().to_owned()).collect();
    assert_eq!(published.len(), 2, "{published:?} of {a}, {b}; {resharded:?} {settled:?}, {shards} shards");
    Ok(())
}

/// The node is killed, and the reshard is done before another one starts.
#[tokio::test]
async fn r1_a_crash_and_a_reshard_lose_no_message() -> Result<(), Any> {
    let (orders, bus) = (world().await, world().await);
    let store = orders.store.clone().with_source("orders");
    let [a, b] = keys();
    let uneven = Uneven {
        inner: Arc::new(LogBus::new(&bus.store)),
        cut: Arc::new(Mutex::new(vec![b.clone()])),
        confirm: Arc::new(tokio::sync::Semaphore::new(0)),
    };
    let place = |cents| [PurchaseEvent::Placed { cents }];
    let lease = Duration::from_millis(200);
    let start = || Runner::new(&store).relay::<OrderMessage>(&Bus::new(uneven.clone())).shards(2).lease(lease).start();
    let relay = start();
    relay.settle().await?;
    store.append(StreamId::new("purchase", &b), Expected::Any, place(1)).await?;
    store.append(StreamId::new("purchase", &a), Expected::Any, place(2)).await?;
    let late = tokio::time::Instant::now() + SOON;
    while bus.store.read().category("orders").count().await? < 1 && tokio::time::Instant::now() < late {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The first node hangs: it never has its answer.
    let before = store.as_ref().shards(Some("relay:orders")).await?;
    relay.pause("relay:orders").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let paused = store.as_ref().shards(Some("relay:orders")).await?;
    relay.resume("relay:orders").await?;
    let resharded = Processors::new(&store).reshard("relay:orders", 1).await;
    uneven.cut.lock().unwrap().clear();
    uneven.confirm.add_permits(1_000);
    let settled = relay.settle().await;
    relay.stop().await;
    let published: Vec<_> = bus.store.read().category("orders").raw().try_collect::<Vec<_>>().await?;
    let published: Vec<_> = published.iter().map(|event| event.stream.key().to_owned()).collect();
    assert_eq!(published.len(), 2, "{published:?} of {a}, {b}; {resharded:?} {settled:?} {before:?} {paused:?}");
    Ok(())
}

/// Many events of many keys while the relay is resharded again and again; nothing fails.
#[tokio::test]
async fn r1_a_relay_that_is_resharded_under_load_loses_no_message() -> Result<(), Any> {
    let (orders, bus) = (world().await, world().await);
    let store = orders.store.clone().with_source("orders");
    let relay = Runner::new(&store).relay::<OrderMessage>(&LogBus::new(&bus.store).into()).shards(2).batch(2).start();
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for n in 0..1_500_i64 {
            let events = [PurchaseEvent::Placed { cents: n + 10_000 }];
            writer.append(StreamId::new("purchase", &format!("k{}", n % 97)), Expected::Any, events).await.unwrap();
            if n % 4 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    while !writing.is_finished() {
        for shards in [1, 2, 1, 3] {
            let _ = relay.reshard("relay:orders", shards).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    writing.await?;
    let settled = relay.settle().await;
    relay.stop().await;
    assert_eq!(bus.store.read().category("orders").count().await?, 1_500, "{settled:?}");
    Ok(())
}

/// Two nodes, one shard, as by default; an operator pauses the inbox and resumes it.
#[tokio::test]
async fn i3_a_queue_is_read_after_a_pause_by_whichever_node() -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let fake = Fake::new(1, Order::Key, Kind::Queue);
    let node = || Runner::new(&store).inbox::<OrderMessage>(&fake.bus()).lease(Duration::from_millis(300)).start();
    let (one, two) = (node(), node());
    fake.put_each(0);
    assert_eq!(received(&store, 1, SOON).await?, 1, "before");
    let mut owners = vec![];
    for turn in 1..8 {
        one.pause("inbox:orders").await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        if turn % 2 == 0 {
            one.resume("inbox:orders").await?
        } else {
            two.resume("inbox:orders").await?
        }
        fake.put_each(turn);
        let got = received(&store, turn as u64 + 1, Duration::from_secs(3)).await?;
        owners.push(store.as_ref().shards(Some("inbox:orders")).await?[0].1.owner);
        if got != turn as u64 + 1 {
            one.stop().await;
            let then = received(&store, turn as u64 + 1, Duration::from_secs(3)).await?;
            two.stop().await;
            panic!("turn {turn}: {got} are recorded, {then} once the first node has stopped; {owners:?}");
        }
    }
    one.stop().await;
    two.stop().await;
    println!("d2 {owners:?}");
    Ok(())
}

/// Fails at random.
#[derive(Clone)]
struct Flaky {
    topic: Arc<Mutex<Vec<Envelope>>>,
    order: Order,
    random: Arc<Mutex<u64>>,
    calm: Arc<AtomicBool>,
}

impl Flaky {
    fn random(&self, below: u64) -> u64 {
        let mut random = self.random.lock().unwrap();
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random % below
    }
}

#[async_trait::async_trait]
impl Publisher for Flaky {
    async fn topic(&self, _: &str) -> Result<Abilities, BusError> {
        Ok(Abilities::new(self.order, Kind::Log))
    }

    async fn publish(&self, _: &str, messages: &[Envelope]) -> Vec<Outcome> {
        let calm = self.calm.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_micros(self.random(1_500))).await;
        let mut outcomes = vec![];
        let mut cut = false;
        for message in messages {
            let roll = if calm { 99 } else { self.random(100) };
            if cut {
                outcomes.push(Outcome::NotTried);
                continue;
            }
            let put = || self.topic.lock().unwrap().push(message.clone());
            let outcome = match roll {
                0..2 => Outcome::Failed(BusError::Refused("no".into())),
                2..6 => Outcome::Failed(BusError::unavailable("lost")),
                6..10 => {
                    put();
                    Outcome::Failed(BusError::unavailable("unconfirmed"))
                }
                _ => {
                    put();
                    Outcome::Done
                }
            };
            cut = self.order == Order::Prefix && !matches!(outcome, Outcome::Done);
            outcomes.push(outcome);
        }
        outcomes
    }

    async fn last(&self, _: &str, partitions: std::ops::Range<u16>) -> Result<Vec<Option<Last>>, BusError> {
        let last = self.topic.lock().unwrap().last().map(|last| Last {
            id: last.id.clone(),
            relayed: last.extensions.get("relayed").cloned().unwrap_or_default(),
        });
        Ok(vec![if self.order == Order::Prefix { last } else { None }; partitions.len()])
    }
}

async fn flaky(order: Order, shards: &[u16], seed: u64) -> Result<(), Any> {
    let orders = world().await;
    let store = orders.store.clone().with_source("orders");
    let flaky =
        Flaky { topic: Arc::default(), order, random: Arc::new(Mutex::new(seed * 7_919 + 13)), calm: Arc::default() };
    let other = world().await;
    let bus = Bus { publisher: Arc::new(flaky.clone()), source: Arc::new(LogBus::new(&other.store)) };
    let start = || Runner::new(&store).relay::<OrderMessage>(&bus).shards(shards[0]).batch(7).start();
    let mut relay = start();
    let mut wanted: std::collections::BTreeMap<String, Vec<(u64, String)>> = Default::default();
    for turn in 0..30_usize {
        for _ in 0..6 {
            let key = format!("o{}", flaky.random(5));
            let stream = StreamId::new("purchase", &key);
            let other = format!("o{}", flaky.random(5));
            let event = match flaky.random(4) {
                0 if other != key => PurchaseEvent::Merged { into: other.clone() },
                _ => PurchaseEvent::Placed { cents: 5 },
            };
            let merged = matches!(event, PurchaseEvent::Merged { .. });
            let written = store.append(&stream, Expected::Any, [event]).await?;
            let id = store.read().stream(&stream).raw().try_collect::<Vec<_>>().await?.last().unwrap().id;
            wanted.entry(key).or_default().push((written.last.0, id.to_string()));
            if merged {
                wanted.entry(other).or_default().push((written.last.0, id.to_string()));
            }
        }
        if turn % 10 == 7 {
            relay.stop().await;
            relay = start();
        }
        if turn % 5 == 4 && shards.len() > 1 {
            let _ = relay.reshard("relay:orders", shards[turn % shards.len()]).await;
        }
        if turn % 6 == 5 {
            let _ = tokio::time::timeout(SOON, relay.dead_letters("relay:orders").retry_all()).await;
        }
    }
    flaky.calm.store(true, Ordering::SeqCst);
    let _ = relay.settle().await;
    for _ in 0..10 {
        let left = relay.dead_letters("relay:orders").list().await?;
        if left.is_empty() {
            break;
        }
        let _ = relay.dead_letters("relay:orders").retry_all().await;
    }
    let settled = relay.settle().await;
    relay.stop().await;
    let topic = flaky.topic.lock().unwrap().clone();
    for (key, wanted) in wanted {
        let mut seen: Vec<(u64, String)> = vec![];
        for message in topic.iter().filter(|message| message.key == key) {
            let cause = message.causation_id.unwrap().to_string();
            if !seen.iter().any(|(_, id)| *id == cause) {
                seen.push((message.sequence().unwrap().0, cause));
            }
        }
        let places = |all: &[(u64, String)]| all.iter().map(|(place, _)| *place).collect::<Vec<_>>();
        if seen != wanted {
            let lost: Vec<_> = wanted.iter().filter(|one| !seen.contains(one)).map(|(place, _)| *place).collect();
            return Err(format!(
                "{order:?} {shards:?} seed {seed}: key {key} lost {lost:?}, seen {:?}, {settled:?}",
                places(&seen)
            )
            .into());
        }
    }
    Ok(())
}

async fn flaky_all(order: Order, shards: &[u16]) -> Result<(), Any> {
    let mut bad = vec![];
    let late = tokio::time::Instant::now() + Duration::from_secs(4);
    let mut seeds = 0;
    for seed in 1..60 {
        if tokio::time::Instant::now() > late {
            break;
        }
        seeds += 1;
        if let Err(error) = flaky(order, shards, seed).await {
            bad.push(format!("{:.700}", error.to_string()));
        }
    }
    println!("{order:?} {shards:?}: {seeds} seeds, {} bad", bad.len());
    assert!(bad.is_empty(), "{bad:#?}");
    Ok(())
}

#[tokio::test]
async fn r2_random_faults_keep_the_order_on_a_bus_that_keeps_a_prefix() -> Result<(), Any> {
    flaky_all(Order::Prefix, &[1]).await
}

#[tokio::test]
async fn r2_random_faults_keep_the_order_of_three_shards() -> Result<(), Any> {
    flaky_all(Order::Prefix, &[3]).await
}

#[tokio::test]
async fn r2_random_faults_and_reshards_keep_the_order_in_waves() -> Result<(), Any> {
    flaky_all(Order::Key, &[2, 1, 3]).await
}

#[tokio::test]
async fn r2_random_faults_and_reshards_keep_the_order_of_a_prefix() -> Result<(), Any> {
    flaky_all(Order::Prefix, &[2, 1, 3]).await
}

/// A name that breaks the rules for attributes is told at the start, not at each message.
#[tokio::test]
async fn r1_a_source_that_no_message_can_have_is_told_at_the_start() -> Result<(), Any> {
    let (orders, bus) = (world().await, world().await);
    let store = orders.store.clone().with_source("orders\n");
    for n in 0..5 {
        let event = [PurchaseEvent::Placed { cents: n }];
        store.append(StreamId::new("purchase", &format!("o{n}")), Expected::Any, event).await?;
    }
    let relay = Runner::new(&store).relay::<OrderMessage>(&LogBus::new(&bus.store).into()).start();
    let settled = relay.settle().await;
    relay.stop().await;
    let letters = Processors::new(&store).dead_letters("relay:orders").list().await?.len();
    assert_eq!(letters, 0, "{settled:?}");
    Ok(())
}

/// Nodes come and go, shards are split and merged: each message is recorded once, those of a key in order.
async fn inbox_changes(kind: Kind, partitions: u16, shards: &[u16], nodes: usize) -> Result<(), Any> {
    let shipping = world().await;
    let store = shipping.store.clone().with_source("shipping");
    let order = if kind == Kind::Log { Order::Prefix } else { Order::Key };
    let fake = Fake::new(partitions, order, kind);
    let start = || {
        Runner::new(&store)
            .inbox::<OrderMessage>(&fake.bus())
            .shards(shards[0])
            .lease(Duration::from_millis(250))
            .start()
    };
    let mut running = vec![start()];
    running[0].settle().await?;
    for turn in 0..8_usize {
        for n in 0..40 {
            let id = turn * 40 + n;
            let mut message = placed(&id.to_string(), &format!("k{}", n % 11));
            message.data = format!(r#"{{"orderId":"k","totalCents":{id}}}"#).into_bytes();
            fake.put(message);
        }
        if shards.len() > 1 {
            running[0].reshard("inbox:orders", shards[turn % shards.len()]).await?;
        }
        tokio::time::sleep(Duration::from_millis(120)).await;
        if nodes > 1 && turn % 2 == 1 {
            running.remove(0).stop().await;
        }
        if running.is_empty() || running.len() < nodes {
            running.push(start());
        }
    }
    let got = received(&store, 320, SOON).await?;
    for one in running {
        one.stop().await;
    }
    let events: Vec<_> = store.read().category("in.orders").raw().try_collect::<Vec<_>>().await?;
    let mut last: std::collections::HashMap<String, i64> = Default::default();
    for event in events {
        let body: serde_json::Value = serde_json::from_slice(&event.data.body)?;
        let cents = body["totalCents"].as_i64().unwrap();
        let before = last.insert(event.stream.key().to_owned(), cents).unwrap_or(-1);
        assert!(before < cents, "order of {}", event.stream);
    }
    assert_eq!(got, 320, "{kind:?} {partitions} {shards:?} {nodes}");
    Ok(())
}

#[tokio::test]
async fn i3_random_splits_keep_the_order_of_a_log() -> Result<(), Any> {
    inbox_changes(Kind::Log, 4, &[1, 2, 3, 4, 4, 4, 4, 4], 1).await
}

#[tokio::test]
async fn i3_random_nodes_keep_the_order_of_a_log() -> Result<(), Any> {
    inbox_changes(Kind::Log, 4, &[3], 2).await
}

#[tokio::test]
async fn i3_random_nodes_keep_the_order_of_a_queue() -> Result<(), Any> {
    inbox_changes(Kind::Queue, 4, &[3], 2).await
}

#[tokio::test]
async fn i3_random_reshards_keep_the_order_of_a_queue() -> Result<(), Any> {
    inbox_changes(Kind::Queue, 4, &[2, 1, 4], 1).await
}
