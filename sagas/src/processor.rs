//! A process as a processor of the engine: reads the rows of the instances that a part concerns, has each answer its
//! events, and writes the rows with the checkpoint.
//!
//! Commands are sent outside of the transaction, before it. The rows are read in one snapshot with the checkpoint: a node
//! that has lost the shard gets none, and sends nothing. A crash after the commands and before the transaction sends the
//! same commands with the same ids again, and each is recorded once.

use std::{collections::HashMap, ops::Range, time::Duration};

use async_trait::async_trait;
use eventstore_core::{
    Changes, Event, EventStore, Position, Query, StoreError, Transaction,
    process::{Heard, Process, Turn, TurnResult},
};
use eventstore_engine::{
    Begins, DecodedPage, Disposition, Failure, Fault, Halt, InstanceStorage, Parked, Part, Processor, Queue, Reads,
    Remembered, Tick, failure::at,
};

use crate::{
    answers::{Answers, perform},
    due, table, timers,
};

/// The events of a part, as instances hear them.
struct Hearing<E> {
    heard: Vec<Heard<E>>,
    /// The events that wait behind a parked one, and their places.
    waiting: Vec<(Queue, usize)>,
    places: HashMap<Position, usize>,
}

/// The result of a part: what is to be written, and the events that wait.
struct Answered {
    changes: Changes,
    waiting: Vec<(Queue, usize)>,
}

impl<P: Process> Answers<P> {
    /// Has the instances of a part answer their events. [`StoreError::Busy`] if another node has the shard, or has moved
    /// it.
    async fn answer(&self, part: &Part<'_>) -> Result<Answered, Failure> {
        let Some(held) = part.held else { return Err(Failure::program("a process cannot be tried without sending")) };
        let Hearing { heard, waiting, places } = self.hear(part)?;
        let mut changes = Changes { table: self.table, upserts: vec![], deletes: vec![] };
        if heard.is_empty() {
            return Ok(Answered { changes, waiting });
        }
        let mut keys: Vec<_> = heard.iter().map(|heard| heard.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        let Some(rows) = self.store.as_ref().rows_of(&held.shard, &held.at, self.table, keys).await? else {
            return Err(StoreError::Busy(format!("the shard {} was moved meanwhile", held.shard).into()).into());
        };
        let mut instances = HashMap::new();
        for (key, row) in rows {
            match table::read(&self.table, &key, &row) {
                Ok(row) => _ = instances.insert(key, row),
                // A later release has written it: the instance waits for a node of that, and the others go on.
                Err(error) => {
                    let first = heard.iter().find(|heard| heard.key == key);
                    let place = first.and_then(|first| places.get(&first.event.position)).copied();
                    let event = &part.page.events[place.unwrap_or(part.places.start)];
                    return Err(Failure { fault: Fault::Later, ..error.into() }.at(event).of(&key));
                }
            }
        }
        let turns = Turn::all(&self.process, heard, instances, |_| false, self.terms());
        // Of several instances that fail, the engine is told of the one with the earliest event.
        let (mut first, mut due): (Option<(usize, Failure)>, _) = (None, None);
        for TurnResult { key, change, waiting, parked } in perform(&self.store, turns).await? {
            if let (Some(parked), Some((event, _))) = (parked, waiting.first()) {
                let place = places.get(&event.position).copied().unwrap_or(part.places.start);
                let fault = if parked.later { Fault::Later } else { Fault::Row };
                if first.as_ref().is_none_or(|(first, _)| place < *first) {
                    let failed = Failure { event: None, queue: None, reason: parked.reason.into(), fault };
                    first = Some((place, failed.at(&part.page.events[place]).of(&key)));
                }
                continue;
            }
            due = [due, table::due(&change)].into_iter().flatten().min();
            table::add(&mut changes, key, change)?;
        }
        if let Some(due) = due {
            let now = self.store.as_ref().now();
            part.outputs.due_in(due::until(now, due));
        }
        match first {
            Some((_, failed)) => Err(failed),
            None => Ok(Answered { changes, waiting }),
        }
    }

    fn hear(&self, part: &Part<'_>) -> Result<Hearing<P::Event>, Failure> {
        let decoded = part.page.decoded::<P::Event>();
        let mut hearing = Hearing { heard: vec![], waiting: vec![], places: HashMap::new() };
        for place in part.places.clone() {
            let raw = &part.page.events[place];
            if !P::Event::NAMES.contains(&&*raw.data.name) {
                continue;
            }
            hearing.places.insert(raw.position, place);
            if let Some(queue) = part.stream_waits(raw) {
                hearing.waiting.push((queue, place));
                continue;
            }
            let events = match decoded.at(part.page, place) {
                Ok(events) => events,
                Err(failed) => {
                    let queues = part.unreadable(raw, self.process.keys_unread(raw), failed)?;
                    hearing.waiting.extend(queues.into_iter().map(|queue| (queue, place)));
                    continue;
                }
            };
            for (event, n) in events.iter().zip(0..) {
                for key in at(raw, || Ok(self.process.keys(event))).map_err(Failure::for_certain)? {
                    if key.contains(char::is_control) {
                        // No dead letter could name the instance.
                        at(raw, || self.table.check_key(&key)).map_err(Failure::for_certain)?;
                    }
                    match part.disposition(raw, &key) {
                        Disposition::Process => hearing.heard.push(Heard { key, event: event.clone(), part: n }),
                        Disposition::Wait => hearing.waiting.push((Queue::Key(key), place)),
                        Disposition::Elsewhere => {}
                    }
                }
            }
        }
        part.same_keys()?;
        Ok(hearing)
    }
}

#[async_trait]
impl<P: Process> Processor for Answers<P> {
    fn name(&self) -> String {
        self.process.name().into()
    }

    fn query(&self) -> Query {
        Query::names(P::Event::NAMES)
    }

    fn reads(&self) -> Reads {
        Reads::of::<P::Event>()
    }

    fn begins(&self) -> Begins {
        Begins::AsSaid(self.start)
    }

    fn instances(&self) -> Option<InstanceStorage> {
        Some(InstanceStorage::Table(self.table))
    }

    async fn prepare(&self, store: &dyn EventStore) -> Result<(), Failure> {
        store.create(&self.table).await?;
        Ok(store.index(&self.table).await?)
    }

    fn decode(&self, page: &DecodedPage, places: Range<usize>) {
        page.decoded::<P::Event>().decode(page, places);
    }

    async fn fold(
        &self,
        _: &dyn EventStore,
        part: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Option<Changes>, Failure> {
        let answered = self.answer(part).await?;
        let changes = answered.waiting.is_empty().then(|| answered.changes.clone());
        part.outputs.keep(answered);
        Ok(changes)
    }

    async fn deliver(&self, _: &dyn EventStore, part: &Part<'_>) -> Result<(), Failure> {
        if part.outputs.get::<Answered>().is_none() {
            part.outputs.keep(self.answer(part).await?);
        }
        Ok(())
    }

    async fn process(
        &self,
        transaction: &mut dyn Transaction,
        part: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        let Some(Answered { changes, waiting }) = part.outputs.get() else {
            return Err(Failure::program("a process cannot be tried without sending"));
        };
        if !changes.is_empty() {
            transaction.write(changes.clone()).await?;
        }
        Ok(waiting.clone())
    }

    fn ticks(&self) -> bool {
        true
    }

    async fn tick(&self, tick: &Tick<'_>) -> Result<Duration, Halt> {
        timers::fire(self, tick).await
    }

    async fn is_due(&self, parked: &Parked) -> Result<bool, StoreError> {
        timers::is_due(self, parked).await
    }
}
