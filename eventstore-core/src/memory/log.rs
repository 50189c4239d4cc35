//! The log in memory: events by position, stream, id and type.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
};

use uuid::Uuid;

use crate::{
    cause::event_id,
    contract::{Append, Condition, Item, Page, Prefix, Query, Read, TypeIndex, Written},
    error::{Conflict, StoreError},
    event::{NewEvent, Raw, Recorded},
    invalid::Invalid,
    limits,
    stream::{Expected, Position, StreamHead, StreamId, Version},
    timestamp::Timestamp,
};

/// The events of a store, with their places by stream and by id.
#[derive(Default)]
pub(super) struct Log {
    pub(super) events: Vec<Recorded<Raw>>,
    /// The number of committed events. Those after them belong to the open transaction.
    pub(super) committed: usize,
    /// The places in the log of the events of each stream.
    streams: BTreeMap<StreamId, Vec<usize>>,
    pub(super) ids: HashMap<Uuid, usize>,
    types: TypeIndex,
}

impl Log {
    /// Returns the committed events, as a log of their own.
    pub(super) fn fork(&self) -> Self {
        Self {
            events: self.events[..self.committed].to_vec(),
            committed: self.committed,
            streams: self.streams.clone(),
            ids: self.ids.clone(),
            types: self.types.clone(),
        }
    }

    /// Returns the position of the last committed event.
    pub(super) fn head(&self) -> Position {
        Position(self.committed as u64)
    }

    fn version(&self, stream: &StreamId) -> Version {
        Version(self.streams.get(stream).map_or(0, |places| places.len() as u64))
    }

    /// Returns the page of a read, of the log up to a head.
    pub(super) fn page(&self, read: &Read, head: Position) -> Page {
        let asked = self.types.resolve(&read.query);
        let query = asked.as_ref().unwrap_or(&read.query);
        let until = place(read.until.map_or(head, |until| until.min(head)));
        let after = place(read.after).min(until);
        let events = match query.stream() {
            Some(stream) => {
                let places = self.streams.get(&stream).map_or(&[][..], |places| places);
                let versions = |version: Version| usize::try_from(version.0).unwrap_or(usize::MAX);
                let end = places.partition_point(|place| *place < until);
                let end = read.until_version.map_or(end, |version| versions(version).min(end));
                let start = places.partition_point(|place| *place < after).max(versions(read.after_version)).min(end);
                page(read, query, places[start..end].iter().map(|&place| &self.events[place]))
            }
            None if query.items.iter().all(Item::is_stream) => {
                let streams = query.items.iter().filter_map(|item| Query::from(item.clone()).stream());
                let places = streams.filter_map(|stream| self.streams.get(&stream)).flatten().copied();
                let places: BTreeSet<_> = places.filter(|place| (after..until).contains(place)).collect();
                page(read, query, places.into_iter().map(|place| &self.events[place]))
            }
            None => page(read, query, self.events[after..until].iter()),
        };
        Page { head, events, asked }
    }

    /// Returns the events of a command, of the log up to a place.
    pub(super) fn find(&self, command: Uuid, until: usize) -> Vec<Recorded<Raw>> {
        let Some(&place) = self.ids.get(&event_id(command, 0)) else { return vec![] };
        let seen = self.events.get(place..until).unwrap_or_default();
        let numbered = seen.iter().zip(0..).take_while(|(event, n)| event.id == event_id(command, *n));
        numbered.map(|(event, _)| event.clone()).collect()
    }

    /// Returns a page of the streams of a category, of the log up to a place.
    pub(super) fn streams(&self, category: &str, after: &str, limit: usize, until: usize) -> Vec<StreamHead> {
        let after = Bound::Excluded(StreamId::new(category, after));
        let streams = self.streams.range((after, Bound::Unbounded));
        let heads = streams.take_while(|(stream, _)| stream.category() == category).filter_map(|(stream, places)| {
            let version = places.partition_point(|place| *place < until);
            let last = places[..version].last()?;
            let (version, position) = (Version(version as u64), Position(*last as u64 + 1));
            Some(StreamHead { stream: stream.clone(), version, position })
        });
        heads.take(limit).collect()
    }

    /// Returns the prefix of an instant, of the log up to a place.
    pub(super) fn prefix_at(&self, at: Timestamp, now: Timestamp, until: usize) -> Prefix {
        let place = self.events[..until].partition_point(|event| event.recorded_at <= at);
        Prefix { position: Position(place as u64), settled: place < until || at < now }
    }

    fn newer(&self, after: Position) -> &[Recorded<Raw>] {
        self.events.get(place(after)..).unwrap_or_default()
    }

    pub(super) fn append(&mut self, append: Append, now: Timestamp) -> Result<Written, StoreError> {
        append.check()?;
        if let Some(replay) = self.replay(&append)? {
            return Ok(replay);
        }
        self.check(&append)?;
        let types = append.events().map(|(stream, event)| (stream.category(), &*event.data.name));
        let new: HashSet<_> = types.filter(|(category, name)| !self.types.contains(category, name)).collect();
        if self.types.len() + new.len() > limits::TYPES {
            return Err(Invalid::types(self.types.len() + new.len()).into());
        }
        let recorded_at = self.events.last().map_or(now, |last| last.recorded_at.max(now));
        let first = Position(self.events.len() as u64 + 1);
        let streams: Vec<_> = append.streams().into_iter().map(|(stream, ..)| stream.clone()).collect();
        for write in append.writes {
            for event in write.events {
                self.push(event, &write.stream, recorded_at);
            }
        }
        let last = Position(self.events.len() as u64);
        let streams = streams.into_iter().map(|stream| (stream.clone(), self.version(&stream))).collect();
        Ok(Written { streams, first, last, recorded_at, replayed: false })
    }

    /// Returns the first result if exactly these events are recorded already. Fails with [`StoreError::Duplicate`] if
    /// an id is recorded otherwise.
    fn replay(&self, append: &Append) -> Result<Option<Written>, StoreError> {
        let taken = |(_, event): &(&StreamId, &NewEvent)| self.ids.contains_key(&event.id);
        let Some((_, taken)) = append.events().find(taken) else { return Ok(None) };
        let first = append.events().next().and_then(|(_, first)| self.ids.get(&first.id));
        let replay = first.and_then(|&place| append.replay(&self.events[place..]));
        replay.map(Some).ok_or_else(|| append.duplicate(taken.id))
    }

    fn check(&self, append: &Append) -> Result<(), StoreError> {
        if let Some(&Condition { after: position, .. }) = append.condition.as_ref()
            && place(position) > self.events.len()
        {
            return Err(StoreError::Forked { position, event: None });
        }
        for write in &append.writes {
            let actual = self.version(&write.stream);
            if !write.expected.holds(actual) {
                return Err(Conflict::new(write.stream.clone(), write.expected, actual).into());
            }
        }
        for (stream, version) in &append.unchanged {
            let (expected, actual) = (Expected::Version(*version), self.version(stream));
            if !expected.holds(actual) {
                return Err(Conflict::new(stream.clone(), expected, actual).into());
            }
        }
        let Some(condition) = &append.condition else { return Ok(()) };
        let resolved = self.types.resolve(&condition.query);
        let query = resolved.as_ref().unwrap_or(&condition.query);
        let matches = |event: &&Recorded<Raw>| query.matches(&event.stream, &event.data);
        match self.newer(condition.after).iter().find(matches) {
            Some(event) => Err(Conflict::in_the_way(event.stream.clone(), event.version).into()),
            None => Ok(()),
        }
    }

    fn push(&mut self, event: NewEvent, stream: &StreamId, recorded_at: Timestamp) {
        let place = self.events.len();
        let places = self.streams.entry(stream.clone()).or_default();
        places.push(place);
        self.ids.insert(event.id, place);
        self.types.add(stream.category(), &event.data.name);
        let (version, position) = (Version(places.len() as u64), Position(place as u64 + 1));
        self.events.push(event.recorded(stream.clone(), version, position, recorded_at));
    }

    /// Removes the last event.
    pub(super) fn pop(&mut self) {
        if let Some(event) = self.events.pop() {
            self.ids.remove(&event.id);
            self.streams.get_mut(&event.stream).map(Vec::pop);
        }
    }
}

/// Returns the number of events up to a position.
pub(super) fn place(position: Position) -> usize {
    usize::try_from(position.0).unwrap_or(usize::MAX)
}

/// Returns the events among these that a read asks for.
fn page<'a>(
    read: &Read,
    query: &Query,
    events: impl DoubleEndedIterator<Item = &'a Recorded<Raw>>,
) -> Vec<Recorded<Raw>> {
    let wanted = |event: &&Recorded<Raw>| query.matches(&event.stream, &event.data);
    let limit = read.limit.unwrap_or(usize::MAX);
    match read.backwards {
        false => events.filter(wanted).take(limit).cloned().collect(),
        true => events.rev().filter(wanted).take(limit).cloned().collect(),
    }
}
