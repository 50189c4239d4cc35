//! A page of the log: read once, decoded once, and processed by all that hear of it.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use eventstore_core::{Checkpoint, Event, EventStore, Position, Raw, Read, Recorded, StoreError, Transaction};
use futures::TryStreamExt;
use uuid::Uuid;

use crate::failure::{Blame, Failure, at};

/// Every event that was asked for, of the log after one position and up to another.
pub struct DecodedPage {
    pub after: Position,
    pub until: Position,
    /// The event at `until`, whether it was asked for or not.
    pub last: Option<Uuid>,
    pub events: Vec<Recorded<Raw>>,
    decoded: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

/// The events of a page as one type reads them, each when it is first asked for.
pub struct Decoded<E>(Vec<OnceLock<Vec<Recorded<E>>>>);

impl DecodedPage {
    pub fn new(after: Position, until: Position, last: Option<Uuid>, events: Vec<Recorded<Raw>>) -> Self {
        Self { after, until, last, events, decoded: Mutex::default() }
    }

    /// The events read up to the end of the log, or as many as fit.
    pub async fn read(
        store: &dyn EventStore,
        after: Position,
        head: Position,
        full: bool,
        events: Vec<Recorded<Raw>>,
    ) -> Result<Self, StoreError> {
        let until = match events.last() {
            Some(last) if full => last.position,
            _ => head.max(after),
        };
        let last = match events.last() {
            Some(last) if last.position == until => Some(last.id),
            _ if until > after => id_at(store, until).await?,
            _ => None,
        };
        Ok(Self::new(after, until, last, events))
    }

    /// Several, one behind the other without a gap, as one.
    pub fn joined(all: &[Arc<Self>]) -> Self {
        let after = all.first().map_or(Position(0), |first| first.after);
        let (until, last) = all.last().map_or((after, None), |last| (last.until, last.last));
        Self::new(after, until, last, all.iter().flat_map(|page| page.events.iter().cloned()).collect())
    }

    /// What there is of it up to a position.
    pub async fn up_to(&self, store: &dyn EventStore, until: Position) -> Result<Self, StoreError> {
        let events = self.events[..self.place_after(until)].to_vec();
        Ok(Self::new(self.after, until, id_at(store, until).await?, events))
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        self.events.iter().map(|event| 300 + event.data.body.len()).sum()
    }

    /// The place of the first event after a position.
    pub fn place_after(&self, position: Position) -> usize {
        self.events.partition_point(|event| event.position <= position)
    }

    pub fn decoded<E: Event>(&self) -> Arc<Decoded<E>> {
        let mut all = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Decoded::<E>((0..self.events.len()).map(|_| OnceLock::new()).collect()));
        let any = all.entry(TypeId::of::<E>()).or_insert_with(|| new()).clone();
        any.downcast().unwrap_or_else(|_| new())
    }
}

impl<E: Event> Decoded<E> {
    /// Reads those that were asked for, ahead of their turn.
    pub fn decode(&self, page: &DecodedPage, places: Range<usize>) {
        for place in places.filter(|place| E::NAMES.contains(&&*page.events[*place].data.name)) {
            // What fails is told when it is asked for.
            let _ = self.at(page, place);
        }
    }

    /// What the event at a place is read as: nothing, one event, or several.
    pub fn at(&self, page: &DecodedPage, place: usize) -> Result<&[Recorded<E>], Failure> {
        let (cell, raw) = (&self.0[place], &page.events[place]);
        if let Some(events) = cell.get() {
            return Ok(events);
        }
        let events = at(raw, || raw.decode().map_err(|source| StoreError::unreadable(raw, source)));
        let events = events.map_err(|failed| Failure { blame: Blame::Unreadable, ..failed })?;
        Ok(cell.get_or_init(|| events))
    }
}

/// The id of the event at a position.
pub async fn id_at(store: &dyn EventStore, position: Position) -> Result<Option<Uuid>, StoreError> {
    Ok(store.read(Read::at(position)).await?.events.try_next().await?.map(|event| event.id))
}

/// The same, as a transaction sees it.
pub async fn id_within(transaction: &mut dyn Transaction, position: Position) -> Result<Option<Uuid>, StoreError> {
    Ok(transaction.read(Read::at(position)).await?.events.pop().map(|event| event.id))
}

/// Fails if the log has lost what was processed, also while this ran: another server may answer since the last batch.
pub async fn unforked(transaction: &mut dyn Transaction, at: &Checkpoint) -> Result<(), StoreError> {
    let Checkpoint { position, event: Some(event), .. } = *at else { return Ok(()) };
    match id_within(transaction, position).await? {
        Some(there) if there == event => Ok(()),
        _ => Err(StoreError::Forked { position, event: Some(event) }),
    }
}
