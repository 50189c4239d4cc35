//! A page of the log: read once, decoded once per event type, and processed by all processors of the node that ask for
//! its events.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use eventstore_core::{Checkpoint, Event, EventStore, Position, Raw, Read, Recorded, StoreError, Transaction};
use futures::TryStreamExt;
use uuid::Uuid;

use crate::failure::{Failure, Fault, at};

/// Every event that the query asks for, after the position `after` and up to the position `until`.
pub struct DecodedPage {
    pub after: Position,
    pub until: Position,
    /// The event at `until`, whether the query asks for it or not.
    pub last: Option<Uuid>,
    pub events: Vec<Recorded<Raw>>,
    decoded: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

/// The events of a page as one type reads them. Each is decoded when it is first asked for.
pub struct Decoded<E>(Vec<OnceLock<Vec<Recorded<E>>>>);

impl DecodedPage {
    pub fn new(after: Position, until: Position, last: Option<Uuid>, events: Vec<Recorded<Raw>>) -> Self {
        Self { after, until, last, events, decoded: Mutex::default() }
    }

    /// Makes a page of events that were read: up to `head`, or to the last event if the read was cut off (`full`).
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

    /// Joins pages that follow each other without a gap.
    pub(crate) fn joined(all: &[Arc<Self>]) -> Self {
        let after = all.first().map_or(Position(0), |first| first.after);
        let (until, last) = all.last().map_or((after, None), |last| (last.until, last.last));
        Self::new(after, until, last, all.iter().flat_map(|page| page.events.iter().cloned()).collect())
    }

    /// Returns the part of this page up to a position.
    pub(crate) async fn up_to(&self, store: &dyn EventStore, until: Position) -> Result<Self, StoreError> {
        let events = self.events[..self.place_after(until)].to_vec();
        Ok(Self::new(self.after, until, id_at(store, until).await?, events))
    }

    /// Roughly how many bytes of memory the page takes.
    pub(crate) fn bytes(&self) -> usize {
        self.events.iter().map(|event| 300 + event.data.body.len()).sum()
    }

    /// Returns the index of the first event after a position.
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
    /// Decodes events ahead of their turn, where `E` has their name.
    pub fn decode(&self, page: &DecodedPage, places: Range<usize>) {
        for place in places.filter(|place| E::NAMES.contains(&&*page.events[*place].data.name)) {
            // The error is returned again when the event is processed.
            let _ = self.at(page, place);
        }
    }

    /// Returns what the event at a place is read as: nothing, one event, or several. Fails with [`Fault::Unreadable`].
    pub fn at(&self, page: &DecodedPage, place: usize) -> Result<&[Recorded<E>], Failure> {
        let (cell, raw) = (&self.0[place], &page.events[place]);
        if let Some(events) = cell.get() {
            return Ok(events);
        }
        let events = at(raw, || raw.decode().map_err(|source| StoreError::unreadable(raw, source)));
        let events = events.map_err(|failed| Failure { fault: Fault::Unreadable, ..failed })?;
        Ok(cell.get_or_init(|| events))
    }
}

/// Returns the id of the event at a position.
pub(crate) async fn id_at(store: &dyn EventStore, position: Position) -> Result<Option<Uuid>, StoreError> {
    Ok(store.read(Read::at(position)).await?.events.try_next().await?.map(|event| event.id))
}

/// Returns the id of the event at a position, as a transaction sees it.
pub async fn id_within(transaction: &mut dyn Transaction, position: Position) -> Result<Option<Uuid>, StoreError> {
    Ok(transaction.read(Read::at(position)).await?.events.pop().map(|event| event.id))
}

/// [`StoreError::Forked`] if the log has lost the event at a checkpoint. Another server may answer since the last
/// batch.
pub async fn unforked(transaction: &mut dyn Transaction, at: &Checkpoint) -> Result<(), StoreError> {
    let Checkpoint { position, event: Some(event), .. } = *at else { return Ok(()) };
    match id_within(transaction, position).await? {
        Some(there) if there == event => Ok(()),
        _ => Err(StoreError::Forked { position, event: Some(event) }),
    }
}
