//! What the promises are tried with: topics of their own, a publisher that behaves as a relay does, and a reader that
//! behaves as an inbox does.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use futures::{StreamExt, stream::select_all};
use uuid::Uuid;

use crate::{
    bus::{Abilities, Bus, BusError, Delivered, Delivery, Kind, Offset, Outcome, partition},
    envelope::Envelope,
    relay::publish_in_order,
};

/// The group that most promises read with.
pub(super) const GROUP: &str = "readers";

/// A topic that no other test uses.
#[derive(Clone)]
pub(super) struct Topic {
    pub bus: Bus,
    pub name: String,
    pub abilities: Abilities,
}

impl Topic {
    /// Returns a new topic with the group [`GROUP`]: a queue delivers to a group what is published after it is there.
    pub async fn new(bus: &Bus) -> Self {
        Self::with_groups(bus, &[GROUP]).await
    }

    pub async fn with_groups(bus: &Bus, groups: &[&str]) -> Self {
        let name = format!("conformance.t{}", Uuid::now_v7().simple());
        let abilities = bus.publisher.topic(&name).await.unwrap();
        for group in groups {
            assert_eq!(bus.source.subscribe(&name, group).await.unwrap(), abilities);
        }
        Self { bus: bus.clone(), name, abilities }
    }

    /// The same topic through another connection.
    pub fn through(&self, bus: Bus) -> Self {
        Self { bus, ..self.clone() }
    }

    pub fn is_log(&self) -> bool {
        self.abilities.kind == Kind::Log
    }

    pub fn partition(&self, message: &Envelope) -> u16 {
        partition(&message.key, self.abilities.partitions)
    }

    /// Publishes in the order of keys, once.
    pub async fn publish(&self, messages: &[Envelope]) -> Vec<Outcome> {
        let outcomes = publish_in_order(&*self.bus.publisher, &self.name, self.abilities.order, messages).await;
        assert_eq!(outcomes.len(), messages.len(), "an outcome for each message");
        outcomes
    }

    /// Publishes messages as a relay does: again, until all are confirmed; before each new try it asks for the last
    /// message.
    pub async fn publish_all(&self, messages: &[Envelope]) {
        let mut left = messages.to_vec();
        loop {
            let mut outcomes = self.publish(&left).await.into_iter();
            left.retain(|message| match outcomes.next().unwrap() {
                Outcome::Done => false,
                Outcome::NotTried | Outcome::Failed(BusError::Unavailable(_)) => true,
                Outcome::Failed(error) => panic!("{} is not published: {}", message.id, told(&error)),
            });
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let _ = self.bus.publisher.last(&self.name, 0..self.abilities.partitions).await;
        }
    }

    /// Returns `count` messages, by turns of each partition.
    pub fn messages_of_each(&self, count: usize) -> Vec<Envelope> {
        let mut messages = messages(count, 1);
        for (n, message) in messages.iter_mut().enumerate() {
            let wanted = (n % usize::from(self.abilities.partitions)) as u16;
            message.key = self.key_of(wanted, if n % 3 == 0 { "a" } else { "b" });
        }
        messages
    }

    /// Returns a key of a partition.
    pub fn key_of(&self, wanted: u16, prefix: &str) -> String {
        let mut keys = (0..).map(|n| format!("{prefix}{n}"));
        keys.find(|key| partition(key, self.abilities.partitions) == wanted).unwrap()
    }

    pub fn reader(&self, group: &str) -> Reader {
        Reader { topic: self.clone(), group: group.into(), at: vec![None; self.abilities.partitions.into()] }
    }

    /// Returns all that a new group, or the group of a queue, gets of the topic, with the partitions: up to messages that
    /// are published now.
    pub async fn drain(&self, group: &str) -> Vec<(u16, Envelope)> {
        self.reader(group).drain().await
    }
}

/// Returns an error with its causes.
pub(super) fn told(error: &BusError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Reads a topic for a group, as an inbox does: after an error it reads on where it is.
pub(super) struct Reader {
    pub topic: Topic,
    pub group: String,
    pub at: Vec<Option<Offset>>,
}

impl Reader {
    /// Reads up to messages that it publishes now; returns what comes before them.
    pub async fn drain(&mut self) -> Vec<(u16, Envelope)> {
        let partitions = self.topic.abilities.partitions;
        let ends: Vec<_> = (0..partitions)
            .map(|partition| {
                Envelope::new(
                    Uuid::now_v7(),
                    "tests",
                    "tests.end",
                    &self.topic.key_of(partition, "end"),
                    b"{}".to_vec(),
                )
            })
            .collect();
        self.topic.publish_all(&ends).await;
        let mut missing: HashSet<String> = ends.into_iter().map(|end| end.id).collect();
        let mut read = self
            .until(|_, message| {
                missing.remove(&message.id);
                missing.is_empty()
            })
            .await;
        read.retain(|(_, message)| message.kind != "tests.end");
        read
    }

    /// Reads until a message is the last one that is wanted.
    pub async fn until(&mut self, mut is_last: impl FnMut(u16, &Envelope) -> bool) -> Vec<(u16, Envelope)> {
        let mut read = vec![];
        let Topic { bus, name, abilities } = self.topic.clone();
        loop {
            let mut streams = vec![];
            for partition in 0..abilities.partitions {
                let after = self.at[usize::from(partition)].clone();
                match bus.source.read(&name, &self.group, partition, after).await {
                    Ok(stream) => streams.push(stream.map(move |delivery| (partition, delivery)).boxed()),
                    Err(BusError::Unavailable(_)) => break,
                    Err(error) => panic!("reading: {}", told(&error)),
                }
            }
            if streams.len() == usize::from(abilities.partitions) {
                let mut all = select_all(streams);
                while let Some((partition, delivery)) = all.next().await {
                    let delivery = match delivery {
                        Ok(delivery) => delivery,
                        Err(BusError::Unavailable(_)) => break,
                        Err(error) => panic!("reading: {}", told(&error)),
                    };
                    self.at[usize::from(partition)] = Some(delivery.offset.clone());
                    let done = bus.source.done(&name, &self.group, partition, &[delivered(&delivery)]).await;
                    // What is not reported done comes again: that the connection is lost is no failure.
                    assert!(matches!(done, Ok(()) | Err(BusError::Unavailable(_))), "{done:?}");
                    let message = message(delivery);
                    let last = is_last(partition, &message);
                    read.push((partition, message));
                    if last {
                        return read;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(super) fn delivered(delivery: &Delivery) -> Delivered {
    Delivered { offset: delivery.offset.clone(), receipt: delivery.receipt.clone() }
}

pub(super) fn message(delivery: Delivery) -> Envelope {
    delivery.message.unwrap_or_else(|unread| panic!("{}: {:?}", unread.reason, unread.headers))
}

/// Returns `count` messages of `keys` keys, by turns, with bodies of some bytes.
pub(super) fn messages(count: usize, keys: usize) -> Vec<Envelope> {
    let new = |n: usize| {
        let data = format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(n % 100));
        Envelope::new(Uuid::now_v7(), "tests", "thing.happened", &format!("k{}", n % keys), data.into_bytes())
    };
    (0..count).map(new).collect()
}

pub(super) fn ids<'a>(messages: impl IntoIterator<Item = &'a Envelope>) -> Vec<String> {
    messages.into_iter().map(|message| message.id.clone()).collect()
}

pub(super) fn without_partitions(read: Vec<(u16, Envelope)>) -> Vec<Envelope> {
    read.into_iter().map(|(_, message)| message).collect()
}

/// Returns messages as a reader knows them that remembers ids: the first of each.
pub(super) fn remembered(messages: Vec<Envelope>) -> Vec<Envelope> {
    let mut seen = HashSet::new();
    messages.into_iter().filter(|message| seen.insert(message.id.clone())).collect()
}

/// The ids of each key, in their order.
fn by_key(messages: &[Envelope]) -> BTreeMap<&str, Vec<&str>> {
    let mut keys: BTreeMap<_, Vec<_>> = BTreeMap::new();
    messages.iter().for_each(|message| keys.entry(&*message.key).or_default().push(&*message.id));
    keys
}

/// Checks that the ids of each key are those of others, in their order; tells of the first key that has others.
pub(super) fn assert_same(read: &[Envelope], expected: &[Envelope], what: &str) {
    let (read, expected) = (by_key(read), by_key(expected));
    for (key, ids) in &expected {
        assert_eq!(read.get(key), Some(ids), "{what}: the messages of the key {key}");
    }
    let more: Vec<_> = read.keys().filter(|key| !expected.contains_key(*key)).collect();
    assert!(more.is_empty(), "{what}: messages of keys that have none: {more:?}");
}

/// Checks that a topic has each message, in the order of its key; in a log, once.
pub(super) async fn assert_there(topic: &Topic, sent: &[Envelope]) {
    let read = without_partitions(topic.drain(GROUP).await);
    assert_read(topic, read, sent);
}

/// Checks what was read of a topic.
pub(super) fn assert_read(topic: &Topic, read: Vec<Envelope>, sent: &[Envelope]) {
    let all = read.len();
    let once = remembered(read);
    assert_same(&once, sent, "read");
    if topic.is_log() {
        assert_eq!(all, once.len(), "a log has each message once");
    }
}

pub(super) fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done)
}

pub(super) fn all_done(outcomes: &[Outcome]) -> bool {
    outcomes.iter().all(is_done)
}
