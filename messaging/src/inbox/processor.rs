//! An inbox as a processor of the engine. It follows no events: all it does, it does when messages have arrived.
//!
//! The offset, the rejected deliveries and the events are written in one transaction that has locked the shard: a node
//! that was frozen, and whose shard is another node's by now, records nothing and moves no offset.

use std::{
    collections::{BTreeMap, HashMap},
    future::pending,
    marker::PhantomData,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use eventstore_core::{
    Append, Changes, EventStore, Invalid, Message, Query, Rows, SLOTS, Shard, Store, StoreError, Timestamp, Transaction,
};
use eventstore_engine::{DecodedPage, Failure, Halt, Parked, Part, Processor, Queue, Reads, Remembered, Tick};
use tokio::time::{Instant, timeout};

use super::{
    Inbox,
    arrivals::{Arrivals, leave_out_known, offset_row},
    reader::{Place, Reader},
    table::{OFFSETS, OffsetRow, REJECTED, changes, read},
};
use crate::{
    bus::{Abilities, Bus, Kind, Offset, Start, check_group, check_topic},
    metrics,
    relay::{failure, locked},
};

/// How long an inbox waits at most until it looks again whether its readers are open.
const LOOK: Duration = Duration::from_secs(1);
/// How often the lag is measured.
const LAG: Duration = Duration::from_secs(5);

type SharedReader = Arc<tokio::sync::Mutex<Option<Reader>>>;

/// Records the messages of a type.
pub struct InboxProcessor<M> {
    bus: Bus,
    store: Store,
    group: Option<String>,
    start: Start,
    /// The readers of this node's shards. A shard that begins again, at another epoch, has another reader.
    readers: Mutex<HashMap<Shard, (u64, SharedReader)>>,
    measured: Mutex<Option<Instant>>,
    of: PhantomData<fn() -> M>,
}

impl<M: Message> InboxProcessor<M> {
    pub fn new(inbox: Inbox<M>, store: Store) -> Self {
        let group = inbox.group.or_else(|| store.source().map(str::to_owned));
        let (readers, measured) = Default::default();
        Self { bus: inbox.bus, store, group, start: inbox.start, readers, measured, of: PhantomData }
    }

    fn group(&self) -> &str {
        self.group.as_deref().unwrap_or_default()
    }

    /// Returns the reader of a shard at an epoch. One of an earlier epoch is given up.
    fn reader(&self, shard: &Shard, epoch: u64) -> SharedReader {
        let mut readers = locked(&self.readers);
        // A shard that shares slots with this one is no more.
        let apart = |other: &Shard| other.to_slot <= shard.from_slot || shard.to_slot <= other.from_slot;
        readers.retain(|other, (of, _)| (other, *of) == (shard, epoch) || apart(other));
        readers.entry(shard.clone()).or_insert_with(|| (epoch, SharedReader::default())).1.clone()
    }

    /// Begins to read the partitions of a shard, each after its stored offset. A partition without one begins where a new
    /// group does, which is stored at once.
    async fn open(&self, tick: &Tick<'_>) -> Result<Reader, Halt> {
        let (topic, group) = (M::TOPIC, self.group());
        let source = &self.bus.source;
        let abilities = source.subscribe(topic, group).await.map_err(failure)?;
        let partitions: Vec<u16> = partitions_of(tick.shard, abilities).collect();
        let mut at = self.offsets(&partitions).await?;
        if abilities.kind == Kind::Log {
            let (now, mut begun) = (self.store.as_ref().time().await?, vec![]);
            for partition in &partitions {
                if !at.contains_key(partition) {
                    let offset = source.offset(topic, *partition, self.start.clone()).await.map_err(failure)?;
                    begun.push((*partition, offset));
                }
            }
            if !begun.is_empty() {
                let (mut transaction, _) = tick.fence.open().await?;
                let row = |(partition, offset): &(u16, Option<Offset>)| {
                    let row = offset_row(topic, group, *partition, offset.as_ref(), now);
                    (OffsetRow::key(topic, group, *partition), row)
                };
                transaction.write(changes(OFFSETS, begun.iter().map(row).collect())?).await?;
                transaction.commit().await?;
                at.extend(begun);
            }
        }
        let mut streams = vec![];
        for partition in partitions {
            let after = at.get(&partition).cloned().flatten();
            streams.push((partition, source.read(topic, group, partition, after).await.map_err(failure)?));
        }
        Ok(Reader::new(abilities, at, streams))
    }

    /// Returns the stored offsets of partitions.
    async fn offsets(&self, partitions: &[u16]) -> Result<BTreeMap<u16, Option<Offset>>, StoreError> {
        let keys = partitions.iter().map(|partition| OffsetRow::key(M::TOPIC, self.group(), *partition)).collect();
        of_rows(self.store.as_ref().rows(Rows::Keys { table: OFFSETS, keys }).await?)
    }

    /// Records a batch. Returns `false`, having recorded nothing, if the stored offsets are not those of the reader:
    /// another node has recorded messages, or an operator has moved the inbox.
    async fn record(&self, tick: &Tick<'_>, place: &mut Place, mut arrivals: Arrivals) -> Result<bool, Halt> {
        let (topic, group) = (M::TOPIC, self.group());
        let store = self.store.as_ref();
        let mut known = arrivals.repeated;
        // A look-up for each batch would cost a fifth of all.
        let mut ask = place.known;
        loop {
            if ask {
                known += leave_out_known(store, &mut arrivals.events).await?;
            }
            let (mut transaction, _) = tick.fence.open().await?;
            if place.abilities.kind == Kind::Log {
                let keys = place.at.keys().map(|partition| OffsetRow::key(topic, group, *partition)).collect();
                let at = of_rows(transaction.rows(Rows::Keys { table: OFFSETS, keys }).await?)?;
                if at != place.at {
                    transaction.rollback().await?;
                    return Ok(false);
                }
                let now = store.now();
                transaction.write(changes(OFFSETS, arrivals.offset_rows(topic, group, now))?).await?;
            }
            if !arrivals.rejected.is_empty() {
                let rows = arrivals.rejected.iter().map(|row| (row.key(), row.clone())).collect();
                transaction.write(changes(REJECTED, rows)?).await?;
            }
            if !arrivals.events.is_empty() {
                match transaction.append(Append::of(arrivals.events.clone())).await {
                    Ok(_) => {}
                    // Some are recorded, perhaps since they were looked up, by an import.
                    Err(StoreError::Duplicate { .. }) => {
                        transaction.rollback().await?;
                        ask = true;
                        continue;
                    }
                    // One of them is such that no log can hold it: the others are recorded.
                    Err(StoreError::Invalid(why)) => {
                        transaction.rollback().await?;
                        match arrivals.reject(topic, group, store.now()) {
                            true => continue,
                            false => return Err(StoreError::from(why).into()),
                        }
                    }
                    Err(error) => {
                        transaction.rollback().await?;
                        return Err(error.into());
                    }
                }
            }
            transaction.commit().await?;
            break;
        }
        metrics::delays(topic, group, arrivals.events.iter().filter_map(|(_, event)| event.occurred_at));
        let counts = [
            ("recorded", arrivals.events.len()),
            ("known", known),
            ("passed_over", arrivals.passed_over),
            ("expired", arrivals.expired),
            ("rejected", arrivals.rejected.len()),
        ];
        counts.into_iter().for_each(|(outcome, messages)| metrics::arrived(topic, group, outcome, messages));
        for row in &arrivals.rejected {
            let (offset, reason) = (&row.offset, &row.reason);
            tracing::warn!(topic, group, offset, reason, "a delivery was no message, and is kept");
        }
        place.known = known > 0;
        place.at.extend(arrivals.offsets.into_iter().map(|(partition, offset)| (partition, Some(offset))));
        for (partition, delivered) in &arrivals.delivered {
            // They are recorded: at worst they are delivered again, and known.
            if let Err(error) = self.bus.source.done(topic, group, *partition, delivered).await {
                tracing::warn!(topic, group, partition, %error, "the bus was not told what is recorded");
            }
        }
        Ok(true)
    }

    /// Measures how far the group is behind, from time to time.
    async fn measure(&self, at: BTreeMap<u16, Option<Offset>>) {
        let due = {
            let mut measured = locked(&self.measured);
            let due = measured.is_none_or(|at| at.elapsed() >= LAG);
            if due {
                *measured = Some(Instant::now());
            }
            due
        };
        if due {
            for (partition, offset) in at {
                let lag = self.bus.source.lag(M::TOPIC, self.group(), partition, offset.as_ref());
                // Messages do not wait for a gauge.
                if let Ok(Ok(lag)) = timeout(LOOK, lag).await {
                    metrics::lag(M::TOPIC, self.group(), partition, lag);
                }
            }
        }
    }
}

/// Returns the partitions of a shard: those whose first slots it has. Each partition is of one shard, however many shards
/// there are.
fn partitions_of(shard: &Shard, abilities: Abilities) -> impl Iterator<Item = u16> {
    let (from, to) = (u32::from(shard.from_slot), u32::from(shard.to_slot));
    let partitions = u32::from(abilities.partitions);
    let first_slot = move |partition: u16| (u32::from(partition) * u32::from(SLOTS)).div_ceil(partitions);
    (0..abilities.partitions).filter(move |partition| (from..to).contains(&first_slot(*partition)))
}

fn of_rows(rows: Vec<(String, Box<serde_json::value::RawValue>)>) -> Result<BTreeMap<u16, Option<Offset>>, StoreError> {
    let offset = |(_, row): (String, Box<serde_json::value::RawValue>)| {
        let row: OffsetRow = read(&row)?;
        Ok((row.partition, row.offset()))
    };
    rows.into_iter().map(offset).collect()
}

#[async_trait]
impl<M: Message> Processor for InboxProcessor<M> {
    fn name(&self) -> String {
        format!("inbox:{}", M::TOPIC)
    }

    fn query(&self) -> Query {
        Query::default()
    }

    /// The messages take the place of events: a node that records fewer of them than another one stands aside, since it
    /// would pass them over. No event has such a name, since names that begin with `$` are reserved.
    fn reads(&self) -> Reads {
        let version = |n| M::SCHEMAS.get(n).copied().unwrap_or(1);
        M::NAMES.iter().enumerate().map(|(n, name)| (format!("$inbox {name}"), version(n))).collect()
    }

    async fn prepare(&self, store: &dyn EventStore) -> Result<(), Failure> {
        let invalid = |why: Invalid| Failure::program(StoreError::from(why));
        check_topic(M::TOPIC).map_err(invalid)?;
        let Some(group) = &self.group else {
            let why = "an inbox reads for a group: give the store a name with `.with_source(\"shipping\")`, or the inbox a \
                       `.group(\"shipping\")`";
            return Err(invalid(Invalid::Request(why.into())));
        };
        check_group(group).map_err(invalid)?;
        let of_topic = |name: &&str| name.strip_prefix(M::TOPIC).is_some_and(|rest| rest.starts_with(':'));
        if let Some(name) = M::NAMES.iter().find(|name| !of_topic(name)) {
            let why = format!("the name `{name}` of a message does not begin with its topic, `{}:`", M::TOPIC);
            return Err(invalid(Invalid::Request(why)));
        }
        for table in [&OFFSETS, &REJECTED] {
            store.create(table).await?;
            store.index(table).await?;
        }
        Ok(())
    }

    fn decode(&self, _: &DecodedPage, _: Range<usize>) {}

    /// Has the shard pass the events of the log in one statement.
    async fn fold(
        &self,
        _: &dyn EventStore,
        _: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Option<Changes>, Failure> {
        Ok(Some(Changes { table: OFFSETS, upserts: vec![], deletes: vec![] }))
    }

    async fn process(
        &self,
        _: &mut dyn Transaction,
        _: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        Ok(vec![])
    }

    /// Sets the group back to the beginning of the topic, which is read again; what is recorded is known.
    async fn clear(&self, transaction: &mut dyn Transaction) -> Result<(), Failure> {
        let rows = transaction.rows(super::list::rows_of(OFFSETS, M::TOPIC)).await?;
        let mut begun = vec![];
        for (key, row) in rows {
            let row: OffsetRow = read(&row)?;
            if row.consumer_group == self.group() {
                begun.push((key, OffsetRow { offset: None, ..row }));
            }
        }
        Ok(transaction.write(changes(OFFSETS, begun)?).await?)
    }

    fn ticks(&self) -> bool {
        true
    }

    async fn arrived(&self, shard: &Shard) {
        let reader = locked(&self.readers).get(shard).map(|(_, reader)| reader.clone());
        if let Some(reader) = reader
            && let Some(reader) = &mut *reader.lock().await
        {
            return reader.arriving.arrived().await;
        }
        pending().await
    }

    fn released(&self, shard: &Shard, epoch: u64) {
        let mut readers = locked(&self.readers);
        if readers.get(shard).is_some_and(|(of, _)| *of == epoch) {
            readers.remove(shard);
        }
    }

    async fn tick(&self, tick: &Tick<'_>) -> Result<Duration, Halt> {
        let shared = self.reader(tick.shard, tick.epoch);
        let mut held = shared.lock().await;
        // A reader that fails is dropped: the next one begins after what is recorded.
        let mut reader = match held.take() {
            Some(reader) => reader,
            None => self.open(tick).await?,
        };
        let batch = reader.arriving.batch().map_err(failure)?;
        if batch.is_empty() {
            let at = reader.place.at.clone();
            *held = Some(reader);
            self.measure(at).await;
            return Ok(LOOK);
        }
        let now: Timestamp = self.store.as_ref().time().await?;
        let arrivals = Arrivals::of::<M>(self.group(), batch, now);
        let Reader { place, arriving } = &mut reader;
        let recorded = tokio::select! {
            biased;
            recorded = self.record(tick, place, arrivals) => recorded?,
            never = arriving.read_ahead() => match never {},
        };
        if recorded {
            *held = Some(reader);
        }
        Ok(Duration::ZERO)
    }

    async fn is_due(&self, _: &Parked) -> Result<bool, StoreError> {
        let (source, topic, group) = (&self.bus.source, M::TOPIC, self.group());
        let away = |error| StoreError::Unavailable(Box::new(error));
        let abilities = source.subscribe(topic, group).await.map_err(away)?;
        let partitions: Vec<u16> = (0..abilities.partitions).collect();
        let at = match self.offsets(&partitions).await {
            Err(StoreError::NotBuilt { .. }) => return Ok(true),
            at => at?,
        };
        for partition in partitions {
            let offset = at.get(&partition).cloned();
            if abilities.kind == Kind::Log && offset.is_none() {
                return Ok(true);
            }
            let offset = offset.flatten();
            if source.lag(topic, group, partition, offset.as_ref()).await.map_err(away)? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Order;

    #[test]
    fn i3_each_partition_is_of_one_shard_however_many_shards_there_are() {
        for partitions in [1, 2, 3, 7, 8, 1_000, 1_024] {
            for shards in [1, 2, 3, 8, 100, 1_024] {
                let abilities = Abilities::new(Order::Key, Kind::Log).partitions(partitions);
                let all = Shard::parts("inbox:orders", shards);
                let mut of: Vec<u16> = all.iter().flat_map(|shard| partitions_of(shard, abilities)).collect();
                of.sort_unstable();
                assert_eq!(of, (0..partitions).collect::<Vec<_>>(), "{partitions} over {shards}");
            }
        }
    }
}
