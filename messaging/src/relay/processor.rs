//! A relay as a processor of the engine: publishes before the transaction that moves its checkpoint.
//!
//! A crash between the two publishes the batch again, under the same ids. Where the bus can tell its last message, the
//! relay leaves out what is in the topic already; elsewhere the receivers know the ids.

use std::{
    cmp::Ordering,
    collections::HashMap,
    ops::Range,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_trait::async_trait;
use eventstore_core::{EventStore, Invalid, Position, Query, Read, SLOTS, Shard, StoreError, Transaction, limits};
use eventstore_engine::{Begins, DecodedPage, Failure, Fault, Held, Part, Processor, Queue, Reads, Remembered};
use futures::TryStreamExt;

use super::{in_order, language::Language, outgoing::Outgoing, relayed::Relayed};
use crate::{
    bus::{Abilities, Bus, BusError, Kind, Order, Outcome, check_topic, partition},
    envelope::RELAYED,
    metrics,
};

/// Publishes what a language says.
pub struct RelayProcessor<L> {
    bus: Bus,
    name: String,
    source: Option<String>,
    abilities: OnceLock<Abilities>,
    /// What is known of each shard of this node.
    shards: Mutex<HashMap<Shard, Known>>,
    language: L,
}

/// What is known of a shard at an epoch; at another one, nothing is.
#[derive(Default)]
struct Known {
    epoch: u64,
    /// How far the topic says that the shard has come; `None` if the bus was not asked since a failure.
    come: Option<Come>,
    /// The messages that are confirmed, and that the checkpoint has not passed yet: with the positions of their events.
    confirmed: HashMap<String, Position>,
}

/// How far a shard has come in the topic.
#[derive(Clone)]
struct Come {
    /// The log, its epoch, and the relay: the beginning of `relayed`.
    of: String,
    /// The last message of this relay in each partition that has one.
    last: HashMap<u16, (Relayed, String)>,
}

impl<L: Language> RelayProcessor<L> {
    pub fn new(language: L, bus: Bus, name: Option<&str>, source: Option<String>) -> Self {
        let name = format!("relay:{}", name.unwrap_or(language.topic()));
        let (abilities, shards) = Default::default();
        Self { bus, name, source, abilities, shards, language }
    }

    /// Does something with what is known of a shard.
    fn known<T>(&self, held: &Held, with: impl FnOnce(&mut Known) -> T) -> T {
        let mut shards = locked(&self.shards);
        let known = shards.entry(held.shard.clone()).or_default();
        if known.epoch != held.at.epoch {
            *known = Known { epoch: held.at.epoch, ..Known::default() };
        }
        with(known)
    }

    fn outgoing(&self, part: &Part<'_>) -> Result<Outgoing, Failure> {
        let source = self.source.as_deref().unwrap_or_default();
        let most = self.abilities.get().map_or(usize::MAX, |abilities| abilities.message_bytes);
        self.language.outgoing(part, source, most)
    }

    /// Returns how far a shard has come; `None` if the last message of a partition does not tell, since the bus may have
    /// refused one before it. Asks the bus if it was not asked since the shard was taken, or since a failure.
    async fn come(&self, store: &dyn EventStore, held: &Held, abilities: Abilities) -> Result<Option<Come>, Failure> {
        if abilities.order != Order::Prefix {
            return Ok(None);
        }
        if let Some(come) = self.known(held, |known| known.come.clone()) {
            return Ok(Some(come));
        }
        let Some(partitions) = partitions_of(&held.shard, abilities) else { return Ok(None) };
        let of = Relayed::of(&store.identity().await?, &self.name);
        let last = self.bus.publisher.last(self.language.topic(), partitions.clone()).await.map_err(failure)?;
        let mut come = Come { of, last: HashMap::new() };
        for (partition, last) in partitions.zip(last) {
            let Some(last) = last else { continue };
            // A message of another writer, or of a history of this log that an operator gave up.
            let Some(relayed) = last.relayed.parse::<Relayed>().ok().filter(|relayed| relayed.of == come.of) else {
                continue;
            };
            let event = store.read(Read::at(relayed.position)).await?.events.try_next().await?;
            if event.map(|event| event.id) != Some(relayed.event) {
                let (position, event) = (relayed.position, Some(relayed.event));
                return Err(StoreError::Forked { position, event }.into());
            }
            come.last.insert(partition, (relayed, last.id));
        }
        self.known(held, |known| known.come = Some(come.clone()));
        Ok(Some(come))
    }

    /// Publishes what is not in the topic yet. The failure names the first event that is to blame.
    async fn publish(
        &self,
        part: &Part<'_>,
        held: &Held,
        outgoing: Outgoing,
        come: Option<&Come>,
    ) -> Result<(), Failure> {
        let topic = self.language.topic();
        let abilities = self.abilities.get().copied().unwrap_or(Abilities::new(Order::Key, Kind::Queue));
        let published = come.map(|come| published_before(part, held, &outgoing, come, abilities)).unwrap_or_default();
        // The place of the first event that waits. Its letter is not stored yet, so no message behind it may say that the
        // relay has come past it.
        let waits = outgoing.waiting.iter().map(|(_, place)| *place).min().unwrap_or(usize::MAX);
        let all = outgoing.messages.len();
        let (mut places, mut messages) = (Vec::with_capacity(all), Vec::with_capacity(all));
        let confirmed: Vec<bool> = self.known(held, |known| {
            outgoing.messages.iter().map(|message| known.confirmed.contains_key(&message.id)).collect()
        });
        for (n, mut message) in outgoing.messages.into_iter().enumerate() {
            if published.get(n).is_some_and(|published| *published) || confirmed[n] {
                continue;
            }
            let place = outgoing.places[n];
            if let Some(come) = come
                && let Some(relayed) = relayed(part, held, &come.of, place, part.only.is_some() || place >= waits)
            {
                message.extensions.insert(RELAYED.into(), relayed.to_string());
            }
            places.push(place);
            messages.push(message);
        }
        metrics::relayed(topic, "known", all - messages.len());
        if messages.is_empty() {
            return Ok(());
        }
        let outcomes = in_order::publish(&*self.bus.publisher, topic, abilities.order, &messages).await;
        let (mut failed, mut confirmed): (Option<(usize, BusError)>, _) = (None, vec![]);
        for (n, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Outcome::Done => confirmed.push(n),
                Outcome::NotTried => {}
                // That the bus is away counts more than that it refused a message.
                Outcome::Failed(error) if failed.as_ref().is_none_or(|(_, other)| is_of_message(other)) => {
                    if failed.is_none() || !is_of_message(&error) {
                        failed = Some((n, error));
                    }
                }
                Outcome::Failed(_) => {}
            }
        }
        let done = confirmed.len();
        metrics::relayed(topic, "done", done);
        metrics::published(topic, confirmed.iter().map(|n| &messages[*n]));
        let position = |n: usize| part.page.events[places[n]].position;
        let confirmed = confirmed.into_iter().map(|n| (messages[n].id.clone(), position(n)));
        self.known(held, |known| known.confirmed.extend(confirmed));
        match failed {
            Some((n, error)) => {
                metrics::relayed(topic, "failed", 1);
                Err(failure(error).at(&part.page.events[places[n]]).of(&messages[n].key))
            }
            None if done < messages.len() => {
                Err(failure(BusError::unavailable("the bus has confirmed fewer messages than it was given")))
            }
            None => Ok(()),
        }
    }
}

/// Returns of each message whether it is in the topic, as its last message says. One that waited as a dead letter was
/// never published.
fn published_before(part: &Part<'_>, held: &Held, outgoing: &Outgoing, come: &Come, abilities: Abilities) -> Vec<bool> {
    let messages = outgoing.messages.iter().zip(&outgoing.places);
    // Of the event that was published last: whether the message that was published last comes after this one.
    let mut passed: HashMap<u16, bool> = HashMap::new();
    let mut published: Vec<_> = messages
        .rev()
        .map(|(message, place)| {
            let partition = partition(&message.key, abilities.partitions);
            let (Some((relayed, last)), None) = (come.last.get(&partition), part.only) else { return false };
            // An event that the checkpoint has passed is asked for again: it was passed by a release without its name.
            if part.page.events[*place].position <= held.at.position {
                return false;
            }
            match part.page.events[*place].position.cmp(&relayed.position) {
                Ordering::Less => true,
                Ordering::Greater => false,
                Ordering::Equal => {
                    let passed = passed.entry(partition).or_insert(relayed.all);
                    *passed |= message.id == *last;
                    *passed
                }
            }
        })
        .collect();
    published.reverse();
    published
}

/// Returns the attribute of a message: its own place; or, for one that comes late or behind one that waits (`behind`),
/// that of the checkpoint. `None` if the checkpoint is at the beginning.
fn relayed(part: &Part<'_>, held: &Held, of: &str, place: usize, behind: bool) -> Option<Relayed> {
    let (of, event) = (of.to_owned(), &part.page.events[place]);
    match behind || event.position <= held.at.position {
        false => Some(Relayed { of, position: event.position, event: event.id, all: false }),
        true => Some(Relayed { of, position: held.at.position, event: held.at.event?, all: true }),
    }
}

/// Returns the partitions that a shard publishes to; `None` if it shares one with another shard. The last message of such a
/// partition says nothing of how far this shard has come.
fn partitions_of(shard: &Shard, abilities: Abilities) -> Option<Range<u16>> {
    let (partitions, slots) = (u32::from(abilities.partitions), u32::from(SLOTS));
    let first = |slot: u16| (u32::from(slot) * partitions / slots) as u16;
    let is_border = |slot: u16| slot == SLOTS || slot == 0 || first(slot) != first(slot - 1);
    let alone = is_border(shard.from_slot) && is_border(shard.to_slot);
    alone.then(|| first(shard.from_slot)..first(shard.to_slot.saturating_sub(1)) + 1)
}

/// Whether an error blames the message, and not the bus.
fn is_of_message(error: &BusError) -> bool {
    matches!(error, BusError::Refused(_))
}

/// Returns the failure for an error of the bus: if it is away, the relay waits; a message that it will never take is
/// parked.
pub fn failure(error: BusError) -> Failure {
    let fault = match &error {
        BusError::Unavailable(_) | BusError::Denied(_) => Fault::World,
        BusError::Refused(_) => Fault::Row,
        BusError::Trimmed { .. } | BusError::Unsupported(_) => Fault::Program,
    };
    Failure { event: None, queue: None, reason: error.into(), fault }
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl<L: Language> Processor for RelayProcessor<L> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn query(&self) -> Query {
        self.language.query()
    }

    fn reads(&self) -> Reads {
        self.language.reads()
    }

    fn begins(&self) -> Begins {
        Begins::FirstEventUnlessSaid(None)
    }

    async fn prepare(&self, _: &dyn EventStore) -> Result<(), Failure> {
        let invalid = |why: Invalid| Failure::program(StoreError::from(why));
        check_topic(self.language.topic()).map_err(invalid)?;
        if self.source.as_deref().is_none_or(str::is_empty) {
            let why = "messages say which program they are from: give the store a name with `.with_source(\"orders\")`";
            return Err(invalid(Invalid::Request(why.into())));
        }
        limits::name("source", self.source.as_deref().unwrap_or_default()).map_err(invalid)?;
        let abilities = self.bus.publisher.topic(self.language.topic()).await.map_err(failure)?;
        let _ = self.abilities.set(abilities);
        Ok(())
    }

    fn decode(&self, page: &DecodedPage, places: Range<usize>) {
        self.language.decode(page, places);
    }

    async fn deliver(&self, store: &dyn EventStore, part: &Part<'_>) -> Result<(), Failure> {
        let outgoing = self.outgoing(part)?;
        let waiting = outgoing.waiting.clone();
        if let (Some(held), Some(abilities), Some(last)) = (part.held, self.abilities.get(), outgoing.places.last()) {
            // What the checkpoint has passed is not asked for again.
            if part.only.is_none() {
                self.known(held, |known| known.confirmed.retain(|_, position| *position > held.at.position));
            }
            let come = self.come(store, held, *abilities).await?;
            // What a crash of the database could undo must not be known outside of it.
            store.flushed(part.page.events[*last].id).await?;
            let published = self.publish(part, held, outgoing, come.as_ref()).await;
            if published.is_err() {
                self.known(held, |known| known.come = None);
            }
            published?;
        }
        part.outputs.keep(waiting);
        Ok(())
    }

    fn released(&self, shard: &Shard, epoch: u64) {
        let mut shards = locked(&self.shards);
        if shards.get(shard).is_some_and(|known| known.epoch == epoch) {
            shards.remove(shard);
        }
    }

    async fn process(
        &self,
        _: &mut dyn Transaction,
        part: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        match part.outputs.get::<Vec<(Queue, usize)>>() {
            Some(waiting) => Ok(waiting.clone()),
            None => Ok(self.outgoing(part)?.waiting),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r4_a_partition_that_two_shards_write_says_nothing_of_either() {
        let of = |partitions: u16, shards: u16| {
            let abilities = Abilities::new(Order::Prefix, Kind::Log).partitions(partitions);
            Shard::parts("relay:orders", shards).iter().map(|shard| partitions_of(shard, abilities)).collect()
        };
        let of: &dyn Fn(u16, u16) -> Vec<Option<Range<u16>>> = &of;
        assert_eq!(of(1, 1), [Some(0..1)]);
        assert_eq!(of(1, 2), [None, None]);
        assert_eq!(of(8, 2), [Some(0..4), Some(4..8)]);
        assert_eq!(of(8, 8), (0..8).map(|n| Some(n..n + 1)).collect::<Vec<_>>());
        assert_eq!(of(2, 4), [None, None, None, None]);
        assert_eq!(of(3, 1), [Some(0..3)]);
        assert_eq!(of(1_024, 1_024).len(), of(1_024, 1_024).into_iter().flatten().count());
        for shards in 1..=32 {
            // Whatever is alone has all slots of its partitions.
            for (shard, range) in Shard::parts("relay:orders", shards).iter().zip(of(12, shards)) {
                let Some(range) = range else { continue };
                for slot in 0..SLOTS {
                    let partition = (u32::from(slot) * 12 / u32::from(SLOTS)) as u16;
                    assert_eq!(range.contains(&partition), (shard.from_slot..shard.to_slot).contains(&slot));
                }
            }
        }
    }
}
