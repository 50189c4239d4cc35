//! Keeps the rows of a declared read model: for a batch of events one read, one fold in memory, one write.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use eventstore_core::{
    Changes, Event, EventStore, Kind, Position, Query, Raw, Read, ReadModel, Recorded, RowFold, Rows, StoreError,
    Table, Transaction,
};
use futures::TryStreamExt;
use serde_json::value::RawValue;

use crate::{
    failed::{Failed, at},
    follower::{Follower, OneRow, Part, Remembered, Turn},
    letters::Queue,
    stretch::{Decoded, Stretch},
};

/// Keeps the rows of `M`.
pub(crate) struct Folded<M> {
    table: Table,
    /// Says which rows an event concerns; has none itself.
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

    fn keys(&self, raw: &Recorded<Raw>, event: &Recorded<M::Event>) -> Result<Vec<String>, StoreError> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).keys(raw, event)
    }
}

#[async_trait]
impl<M: ReadModel> Follower for Folded<M> {
    fn name(&self) -> String {
        self.table.to_string()
    }

    fn table(&self) -> Option<Table> {
        Some(self.table)
    }

    fn shadow(&self) -> Option<Arc<dyn Follower>> {
        (!self.table.shadow).then(|| {
            let table = Table { shadow: true, ..self.table };
            Arc::new(Self { table, keys: Mutex::default() }) as _
        })
    }

    fn query(&self) -> Query {
        Query::names(M::Event::NAMES)
    }

    fn row(&self, key: &str) -> Option<Box<dyn OneRow>> {
        Some(Box::new(One::<M> { table: self.table, key: key.into(), rows: RowFold::only(key) }))
    }

    async fn prepare(&self, store: &dyn EventStore) -> Result<(), Failed> {
        // The checkpoint first: once it has moved there is a table, and one made now would lack what is behind it.
        if store.checkpoint(&self.name()).await? > Position(0) {
            let there = store.rows(Rows::Keys { table: self.table, keys: vec![] }).await;
            there.map_err(|error| match error {
                StoreError::NotBuilt { .. } => {
                    Failed::program("its table is gone and its checkpoint is not: raise its version")
                }
                error => error.into(),
            })?;
        }
        store.create(&self.table).await?;
        // Shows the first event there ever was: where keys come from streams, it says of which category.
        let first = Read { query: self.query(), limit: Some(1), ..Read::default() };
        if let Some(raw) = store.read(first).await?.events.try_next().await? {
            for event in raw.decode().unwrap_or_default() {
                let _ = at(&raw, || self.keys(&raw, &event));
            }
        }
        Ok(())
    }

    fn decode(&self, stretch: &Stretch, places: Range<usize>) {
        stretch.decoded::<M::Event>().decode(stretch, places);
    }

    async fn take(
        &self,
        transaction: &mut dyn Transaction,
        part: &Part<'_>,
        mut remembered: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failed> {
        let decoded = part.stretch.decoded::<M::Event>();
        let (turns, waiting) = self.turns(part, &decoded)?;
        let (mut stored, others) = self.remembered(&turns, remembered.as_deref_mut());
        if !others.is_empty() {
            stored.extend(transaction.rows(Rows::Keys { table: self.table, keys: others }).await?);
        }
        let changes = self.changes(&turns, &stored, remembered)?;
        if !changes.is_empty() {
            transaction.write(changes).await?;
        }
        Ok(waiting)
    }

    async fn fold(
        &self,
        store: &dyn EventStore,
        part: &Part<'_>,
        mut remembered: Option<&mut Remembered>,
    ) -> Result<Option<Changes>, Failed> {
        let decoded = part.stretch.decoded::<M::Event>();
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

/// Where events wait, and which: their places in the stretch.
type Waiting = Vec<(Queue, usize)>;

impl<M: ReadModel> Folded<M> {
    /// Which events concern which rows, and which must wait.
    fn turns<'a>(
        &self,
        part: &Part<'a>,
        decoded: &'a Decoded<M::Event>,
    ) -> Result<(Turns<'a, M::Event>, Waiting), Failed> {
        let (mut turns, mut waiting) = (vec![], vec![]);
        for place in part.places.clone() {
            let raw = &part.stretch.events[place];
            if !M::Event::NAMES.contains(&&*raw.data.name) {
                continue;
            }
            if let Some(queue) = part.stream_waits(raw) {
                waiting.push((queue, place));
                continue;
            }
            let events = match decoded.at(part.stretch, place) {
                Ok(events) => events,
                Err(failed) => {
                    let keys = at(raw, || self.known(raw)).map_err(Failed::for_certain)?;
                    let keys = part.unreadable(raw, keys, failed)?;
                    waiting.extend(keys.into_iter().map(|queue| (queue, place)));
                    continue;
                }
            };
            for event in events {
                // A key no store can hold, or that cannot be told: nobody knows which row would wait.
                let keys = at(raw, || self.keys(raw, event)).map_err(Failed::for_certain)?;
                for key in keys {
                    match part.turn(raw, &key) {
                        Turn::Now => turns.push((key, raw, event)),
                        Turn::Waits => waiting.push((Queue::Key(key), place)),
                        Turn::NotHere => {}
                    }
                }
            }
        }
        waiting.dedup();
        Ok((turns, waiting))
    }

    /// The rows that are remembered, and the keys of the others.
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

    /// What comes of rows as they are stored, and remembers it.
    fn changes(
        &self,
        turns: &[Turned<'_, M::Event>],
        stored: &[(String, Box<RawValue>)],
        remembered: Option<&mut Remembered>,
    ) -> Result<Changes, Failed> {
        let mut rows = RowFold::<M>::of(self.table);
        load(&mut rows, stored)?;
        for (key, raw, event) in turns {
            project(&mut rows, key, raw, event)?;
        }
        let changes = rows.changes().map_err(|error| blame::<M>(stored, turns, error))?;
        if let Some(remembered) = remembered.filter(|_| self.is_exact()) {
            // What has not changed is read again.
            changes.upserts.iter().cloned().for_each(|(key, row)| remembered.put(key, row));
        }
        Ok(changes)
    }

    /// Whether what is read from the table is what was written, in every store and to the last digit.
    fn is_exact(&self) -> bool {
        let exact = |kind| matches!(kind, Kind::Text | Kind::Integer | Kind::Bool | Kind::Uuid);
        self.table.columns.iter().all(|column| exact(column.kind))
    }
}

struct One<M> {
    table: Table,
    key: String,
    rows: RowFold<M>,
}

impl<M: ReadModel> OneRow for One<M> {
    fn query(&self) -> Query {
        RowFold::<M>::events_of(&self.key)
    }

    fn apply(&mut self, event: &Recorded<Raw>) -> Result<(), Failed> {
        at(event, || self.rows.apply(event, |_, _| {}))
    }

    fn changes(&mut self) -> Result<Changes, Failed> {
        let changes = Changes { table: self.table, ..self.rows.changes()? };
        let gone = changes.upserts.is_empty();
        Ok(Changes { deletes: if gone { vec![self.key.clone()] } else { vec![] }, ..changes })
    }
}

type Turned<'a, E> = (String, &'a Recorded<Raw>, &'a Recorded<E>);
type Turns<'a, E> = Vec<Turned<'a, E>>;

fn load<M: ReadModel>(rows: &mut RowFold<M>, stored: &[(String, Box<RawValue>)]) -> Result<(), Failed> {
    let load = |(key, row): &(String, Box<RawValue>)| rows.load(key.clone(), row).map_err(|e| Failed::from(e).of(key));
    stored.iter().try_for_each(load)
}

fn project<M: ReadModel>(
    rows: &mut RowFold<M>,
    key: &str,
    raw: &Recorded<Raw>,
    event: &Recorded<M::Event>,
) -> Result<(), Failed> {
    let project = at(raw, || {
        rows.project(key, event);
        Ok(())
    });
    project.map_err(|failed| failed.of(key))
}

/// Finds the event that made a row no table can hold: folds again, and looks at the row after each.
fn blame<M: ReadModel>(
    stored: &[(String, Box<RawValue>)],
    turns: &[Turned<'_, M::Event>],
    error: StoreError,
) -> Failed {
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
