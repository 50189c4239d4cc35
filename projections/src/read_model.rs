//! Keeps the rows of a declared read model: a batch of events is one read of rows, one fold in memory, one write.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use eventstore_core::{
    Changes, Event, EventStore, Keys, Kind, Position, Query, Raw, Read, ReadModel, Recorded, RowFold, Rows, StoreError,
    Table, Transaction,
};
use eventstore_engine::{
    failure::{Failure, Fault, at},
    record::{queue::Queue, reads::Reads},
    run::{
        page::{Decoded, DecodedPage},
        processor::{Disposition, Part, Processor, RefoldRows, Remembered},
    },
};
use futures::TryStreamExt;
use serde_json::value::RawValue;

use crate::promote;

/// Keeps the rows of `M`.
pub struct Folded<M> {
    table: Table,
    /// Tells which rows an event concerns; has no rows itself.
    keys: Mutex<RowFold<M>>,
}

impl<M: ReadModel> Default for Folded<M> {
    fn default() -> Self {
        Self { table: M::TABLE, keys: Mutex::default() }
    }
}

impl<M: ReadModel> Folded<M> {
    fn known(&self, raw: &Recorded<Raw>) -> Result<Option<Vec<String>>, StoreError> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).known(raw)
    }

    fn keys_of(&self, raw: &Recorded<Raw>, event: &Recorded<M::Event>) -> Result<Vec<String>, StoreError> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).keys(raw, event)
    }
}

#[async_trait]
impl<M: ReadModel> Processor for Folded<M> {
    fn name(&self) -> String {
        self.table.to_string()
    }

    fn table(&self) -> Option<Table> {
        Some(self.table)
    }

    fn shadow(&self) -> Option<Arc<dyn Processor>> {
        (!self.table.shadow).then(|| {
            let table = Table { shadow: true, ..self.table };
            Arc::new(Self { table, keys: Mutex::default() }) as _
        })
    }

    fn query(&self) -> Query {
        Query::names(M::Event::NAMES)
    }

    fn reads(&self) -> Reads {
        Reads::of::<M::Event>()
    }

    fn refold(&self, keys: Vec<String>) -> Vec<Box<dyn RefoldRows>> {
        let anew = |keys: Vec<String>| {
            let (rows, known) = (RowFold::of(self.table), RowFold::default());
            Box::new(Anew::<M> { keys, rows, known }) as Box<dyn RefoldRows>
        };
        match M::KEYS {
            // The events of a key cannot be looked up: one fold reads all events for all keys.
            Keys::By(_) => vec![anew(keys)],
            Keys::Stream | Keys::Tag(_) => keys.into_iter().map(|key| anew(vec![key])).collect(),
        }
    }

    fn keys(&self, event: &Recorded<Raw>) -> Result<Vec<String>, Failure> {
        let decoded = at(event, || event.decode().map_err(|source| StoreError::unreadable(event, source)));
        let decoded = match decoded {
            Ok(decoded) => decoded,
            // Its keys may be known although its body cannot be read.
            Err(failed) => return at(event, || self.known(event))?.ok_or(failed),
        };
        let keys = decoded.iter().map(|one| at(event, || self.keys_of(event, one)));
        let mut keys: Vec<_> = keys.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    async fn built(&self, store: &dyn EventStore, promote: bool) -> Result<Option<StoreError>, StoreError> {
        promote::built(store, &self.name(), &self.table, promote).await
    }

    async fn prepare(&self, store: &dyn EventStore) -> Result<(), Failure> {
        // Read the checkpoint first. Once it has moved there is a table; a table made now would lack the events before
        // it.
        if store.checkpoint(&self.name()).await? > Position(0) {
            let there = store.rows(Rows::Keys { table: self.table, keys: vec![] }).await;
            there.map_err(|error| match error {
                StoreError::NotBuilt { .. } => {
                    Failure::program("its table is gone and its checkpoint is not: raise its version")
                }
                error => error.into(),
            })?;
        }
        store.create(&self.table).await?;
        // Learn the category of the streams that give the keys, from the first event that the read model reads.
        let first = Read { query: self.query(), limit: Some(1), ..Read::default() };
        if let Some(raw) = store.read(first).await?.events.try_next().await? {
            for event in raw.decode().unwrap_or_default() {
                let _ = at(&raw, || self.keys_of(&raw, &event));
            }
        }
        Ok(())
    }

    fn decode(&self, page: &DecodedPage, places: Range<usize>) {
        page.decoded::<M::Event>().decode(page, places);
    }

    async fn process(
        &self,
        transaction: &mut dyn Transaction,
        part: &Part<'_>,
        mut remembered: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        let decoded = part.page.decoded::<M::Event>();
        let (turns, waiting) = self.turns(part, &decoded)?;
        let (mut stored, others) = self.remembered(&turns, remembered.as_deref_mut());
        if !others.is_empty() {
            stored.extend(transaction.rows(Rows::Keys { table: self.table, keys: others }).await?);
        }
        let changes = self.changes(&turns, &stored, remembered)?;
        if !changes.is_empty() {
            transaction.write(changes).await.map_err(|error| refused(&turns, error))?;
        }
        Ok(waiting)
    }

    async fn fold(
        &self,
        store: &dyn EventStore,
        part: &Part<'_>,
        mut remembered: Option<&mut Remembered>,
    ) -> Result<Option<Changes>, Failure> {
        let decoded = part.page.decoded::<M::Event>();
        let (turns, waiting) = self.turns(part, &decoded)?;
        if !waiting.is_empty() {
            return Ok(None);
        }
        let (mut stored, others) = self.remembered(&turns, remembered.as_deref_mut());
        if !others.is_empty() {
            stored.extend(store.rows(Rows::Keys { table: self.table, keys: others }).await?);
        }
        self.changes(&turns, &stored, remembered).map(Some)
    }
}

/// Rows by their keys.
type Keyed = Vec<(String, Box<RawValue>)>;

/// The queues in which events wait, each with the place of its event in the page.
type Waiting = Vec<(Queue, usize)>;

impl<M: ReadModel> Folded<M> {
    /// Returns which events concern which rows, and which events must wait.
    fn turns<'a>(
        &self,
        part: &Part<'a>,
        decoded: &'a Decoded<M::Event>,
    ) -> Result<(Turns<'a, M::Event>, Waiting), Failure> {
        let (mut turns, mut waiting) = (vec![], vec![]);
        for place in part.places.clone() {
            let raw = &part.page.events[place];
            if !M::Event::NAMES.contains(&&*raw.data.name) {
                continue;
            }
            if let Some(queue) = part.stream_waits(raw) {
                waiting.push((queue, place));
                continue;
            }
            let events = match decoded.at(part.page, place) {
                Ok(events) => events,
                Err(failed) => {
                    let keys = at(raw, || self.known(raw)).map_err(Failure::for_certain)?;
                    let keys = part.unreadable(raw, keys, failed)?;
                    waiting.extend(keys.into_iter().map(|queue| (queue, place)));
                    continue;
                }
            };
            for event in events {
                // The key is one that no store can hold, or it is unknown: so is the row that would have to wait.
                let keys = at(raw, || self.keys_of(raw, event)).map_err(Failure::for_certain)?;
                for key in keys {
                    match part.disposition(raw, &key) {
                        Disposition::Process => turns.push((key, raw, event)),
                        Disposition::Wait => waiting.push((Queue::Key(key), place)),
                        Disposition::Elsewhere => {}
                    }
                }
            }
        }
        part.same_keys()?;
        Ok((turns, waiting))
    }

    /// Returns the rows that are remembered, and the keys of the others.
    fn remembered(&self, turns: &[Turned<'_, M::Event>], remembered: Option<&mut Remembered>) -> (Keyed, Vec<String>) {
        let mut keys: Vec<_> = turns.iter().map(|(key, ..)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut remembered = remembered.filter(|_| self.is_exact());
        let (mut stored, mut others) = (vec![], vec![]);
        for key in keys {
            match remembered.as_mut().and_then(|remembered| remembered.take(key)) {
                Some(row) => stored.push((key.clone(), row)),
                None => others.push(key.clone()),
            }
        }
        (stored, others)
    }

    /// Folds events into stored rows. Returns what changes, and remembers it.
    fn changes(
        &self,
        turns: &[Turned<'_, M::Event>],
        stored: &[(String, Box<RawValue>)],
        remembered: Option<&mut Remembered>,
    ) -> Result<Changes, Failure> {
        let mut rows = RowFold::<M>::of(self.table);
        load(&mut rows, stored)?;
        for (key, raw, event) in turns {
            project(&mut rows, key, raw, event)?;
        }
        let changes = rows.changes().map_err(|error| blame::<M>(stored, turns, error))?;
        if let Some(remembered) = remembered.filter(|_| self.is_exact()) {
            // A row that did not change is forgotten, and read again.
            changes.upserts.iter().cloned().for_each(|(key, row)| remembered.put(key, row));
        }
        Ok(changes)
    }

    /// Returns whether the table holds rows exactly as they were written, in every store and to the last digit.
    fn is_exact(&self) -> bool {
        let exact = |kind| matches!(kind, Kind::Text | Kind::Integer | Kind::Bool | Kind::Uuid);
        self.table.columns.iter().all(|column| exact(column.kind))
    }
}

/// Rows made anew from their events, in memory.
struct Anew<M> {
    /// The keys of the rows, in order.
    keys: Vec<String>,
    rows: RowFold<M>,
    /// Tells which rows an event concerns; has no rows itself.
    known: RowFold<M>,
}

impl<M: ReadModel> RefoldRows for Anew<M> {
    fn keys(&self) -> &[String] {
        &self.keys
    }

    fn query(&self) -> Query {
        match &self.keys[..] {
            [key] => RowFold::<M>::events_of(key),
            _ => Query::names(M::Event::NAMES),
        }
    }

    fn apply(&mut self, event: &Recorded<Raw>) -> Result<(), Failure> {
        let Self { keys: wanted, rows, known, .. } = self;
        let of = |failed: Failure| match &wanted[..] {
            [key] => failed.of(key),
            _ => failed,
        };
        let decoded = at(event, || event.decode().map_err(|source| StoreError::unreadable(event, source)));
        let decoded = decoded.map_err(|failed| of(Failure { fault: Fault::Unreadable, ..failed }))?;
        for one in decoded {
            for key in at(event, || known.keys(event, &one)).map_err(Failure::for_certain)? {
                if wanted.binary_search(&key).is_ok() {
                    project(rows, &key, event, &one)?;
                }
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        self.keys.iter().try_for_each(|key| self.rows.check(key).map_err(|error| Failure::from(error).of(key)))
    }

    fn changes(&mut self) -> Result<Changes, Failure> {
        let changes = self.rows.changes()?;
        let there: HashSet<_> = changes.upserts.iter().map(|(key, _)| key).collect();
        let deletes = self.keys.iter().filter(|key| !there.contains(key)).cloned().collect();
        Ok(Changes { deletes, ..changes })
    }
}

type Turned<'a, E> = (String, &'a Recorded<Raw>, &'a Recorded<E>);
type Turns<'a, E> = Vec<Turned<'a, E>>;

fn load<M: ReadModel>(rows: &mut RowFold<M>, stored: &[(String, Box<RawValue>)]) -> Result<(), Failure> {
    let load = |(key, row): &(String, Box<RawValue>)| rows.load(key.clone(), row).map_err(|e| Failure::from(e).of(key));
    stored.iter().try_for_each(load)
}

fn project<M: ReadModel>(
    rows: &mut RowFold<M>,
    key: &str,
    raw: &Recorded<Raw>,
    event: &Recorded<M::Event>,
) -> Result<(), Failure> {
    let project = at(raw, || {
        rows.project(key, event);
        Ok(())
    });
    project.map_err(|failed| failed.of(key))
}

/// Returns the failure of a write. A row that the database refuses, for an index or a constraint of its own, is known only
/// where one event was tried and concerns one row: the engine tries events alone until it is.
fn refused<E>(turns: &[Turned<'_, E>], error: StoreError) -> Failure {
    match (&error, turns) {
        (StoreError::Row { .. }, [(key, raw, _)]) => Failure::from(error).at(raw).of(key),
        _ => error.into(),
    }
}

/// Returns the failure of the event that made a row no table can hold: folds again, and checks the row after each
/// event.
fn blame<M: ReadModel>(
    stored: &[(String, Box<RawValue>)],
    turns: &[Turned<'_, M::Event>],
    error: StoreError,
) -> Failure {
    let mut rows = RowFold::<M>::default();
    let mut look = || {
        load(&mut rows, stored)?;
        turns.iter().try_for_each(|(key, raw, event)| {
            project(&mut rows, key, raw, event)?;
            at(raw, || rows.check(key)).map_err(|failed| failed.of(key))
        })
    };
    look().err().unwrap_or_else(|| error.into())
}
