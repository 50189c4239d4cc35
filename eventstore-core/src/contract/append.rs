//! An append to the log: what is written, on which condition, and where it landed.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::query::Query;
use crate::{
    error::StoreError,
    event::{NewEvent, Raw, Recorded},
    invalid::Invalid,
    limits,
    stream::{Expected, Position, StreamId, Version},
    timestamp::Timestamp,
};

/// One atomic append: to one stream or to several.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// The events of each stream. The log keeps this order. A stream may come again; only its first write may have an
    /// expectation.
    pub writes: Vec<Write>,
    /// Streams that are not written to, but must still be at these versions.
    pub unchanged: Vec<(StreamId, Version)>,
    /// Which events must not have been recorded meanwhile.
    pub condition: Option<Condition>,
}

impl Append {
    /// Returns the append of events in their order, each to its stream, whatever versions the streams have.
    pub fn of(events: impl IntoIterator<Item = (StreamId, NewEvent)>) -> Self {
        let mut append = Self::default();
        for (stream, event) in events {
            match append.writes.last_mut() {
                Some(write) if write.stream == stream => write.events.push(event),
                _ => append.writes.push(Write { stream, expected: Expected::Any, events: vec![event] }),
            }
        }
        append
    }

    /// Refuses what no store can keep, with [`Invalid`]. Every store calls it first, so that the limits are the same
    /// everywhere. Returns the metadata of each event, in the order of [`events`](Self::events), as stores keep it.
    pub fn check(&self) -> Result<Vec<Vec<u8>>, Invalid> {
        if self.writes.iter().any(|write| write.events.is_empty()) || self.writes.is_empty() {
            return Err(Invalid::Request("an append needs an event for each of its streams".into()));
        }
        let mut streams = HashSet::with_capacity(self.writes.len());
        for write in &self.writes {
            if !streams.insert(&write.stream) && write.expected != Expected::Any {
                let stream = &write.stream;
                return Err(Invalid::Request(format!(
                    "what is expected of stream {stream} is said where it comes first"
                )));
            }
        }
        let events = || self.writes.iter().flat_map(|write| &write.events);
        limits::size("the events of an append", events().count(), limits::EVENTS)?;
        let (mut bytes, mut metadata) = (0, vec![]);
        for event in events() {
            let json = event.metadata.to_json()?;
            bytes += event.data.bytes() + json.len();
            limits::size("the bodies, tags and metadata of an append together", bytes, limits::APPEND_BYTES)?;
            metadata.push(json);
        }
        let mut ids: Vec<_> = events().map(|event| event.id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Invalid::Request(format!("event id {} is given twice in one append", twice[0])));
        }
        self.writes.iter().try_for_each(Write::check)?;
        self.unchanged.iter().try_for_each(|(stream, _)| stream.check())?;
        if let Some(condition) = &self.condition {
            for item in &condition.query.items {
                if item.category.is_some() != item.key.is_some() {
                    let why = "an append condition asks for names, tags and whole streams, not for a category or a key";
                    return Err(Invalid::Request(why.into()));
                }
                item.check()?;
            }
        }
        Ok(metadata)
    }

    /// Returns the events, each with its stream, in the order of the log.
    pub fn events(&self) -> impl Iterator<Item = (&StreamId, &NewEvent)> {
        self.writes.iter().flat_map(|write| write.events.iter().map(|event| (&write.stream, event)))
    }

    /// Returns each stream once, in the order in which they come first: with the expectation, and the number of its new
    /// events.
    pub fn streams(&self) -> Vec<(&StreamId, Expected, u64)> {
        let mut places = HashMap::with_capacity(self.writes.len());
        let mut streams = Vec::with_capacity(self.writes.len());
        for Write { stream, expected, events } in &self.writes {
            let place = *places.entry(stream).or_insert(streams.len());
            if place == streams.len() {
                streams.push((stream, *expected, 0));
            }
            streams[place].2 += events.len() as u64;
        }
        streams
    }

    /// Returns the first result if exactly these events are recorded already; else none. `recorded` is the log from the
    /// first event on.
    pub fn replay(&self, recorded: &[Recorded<Raw>]) -> Option<Written> {
        let recorded = recorded.get(..self.events().count())?;
        let same = self.events().zip(recorded).all(|((stream, new), old)| {
            (new.id, stream, &new.data.name, &new.data.body) == (old.id, &old.stream, &old.data.name, &old.data.body)
        });
        let (first, last) = (recorded.first().filter(|_| same)?, recorded.last()?);
        let (first, last, recorded_at) = (first.position, last.position, first.recorded_at);
        let ends: HashMap<_, _> = recorded.iter().map(|event| (&event.stream, event.version)).collect();
        let streams = self.streams().into_iter().map(|(stream, ..)| Some((stream.clone(), *ends.get(stream)?)));
        Some(Written { streams: streams.collect::<Option<_>>()?, first, last, recorded_at, replayed: true })
    }

    /// Returns the error for an event id that is recorded with other data.
    pub fn duplicate(&self, event: Uuid) -> StoreError {
        let taken = self.events().find(|(_, new)| new.id == event);
        let command = taken.map_or(Uuid::nil(), |(_, new)| new.metadata.command_id);
        StoreError::Duplicate { event, command }
    }
}

/// The new events of one stream.
#[derive(Clone, Debug)]
pub struct Write {
    /// The stream.
    pub stream: StreamId,
    /// The version it must have.
    pub expected: Expected,
    /// At least one.
    pub events: Vec<NewEvent>,
}

impl Write {
    fn check(&self) -> Result<(), Invalid> {
        self.stream.check()?;
        self.events.iter().try_for_each(NewEvent::check)
    }
}

/// An append condition: no event that matches the query was recorded after the position.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// By names, tags and streams. The store resolves an [`except`](crate::Item::except) when it appends, so that the
    /// condition covers types that were added after the decision was made.
    pub query: Query,
    /// The head of the read that the decision was made on. A position beyond the end of the log is of another log, or
    /// of an end that was lost: the append fails with [`StoreError::Forked`].
    pub after: Position,
}

/// The result of an append.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The streams in the order in which they come first, each with the version of its last new event.
    pub streams: Vec<(StreamId, Version)>,
    /// The position of the first event; the others follow without a gap.
    pub first: Position,
    /// The position of the last event. A caller that reads its own writes waits for it.
    pub last: Position,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// Whether the events were recorded before, and this is the first result again.
    pub replayed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Tag, metadata::Metadata};

    #[test]
    fn a11_tags_and_metadata_of_an_append_are_limited_together_with_the_bodies() {
        let event = |n: u128| {
            let tag = Tag { name: LONG.into(), key: "k".into() };
            let data = Raw { name: "x".into(), tags: vec![tag; limits::TAGS], body: vec![] };
            NewEvent { id: Uuid::from_u128(n), schema: 1, occurred_at: None, metadata: Metadata::default(), data }
        };
        // Borrowed: the limit counts these 512 bytes for each tag, and the test allocates them once.
        const LONG: &str = match str::from_utf8(&[b'a'; limits::NAME_BYTES]) {
            Ok(long) => long,
            Err(_) => "",
        };
        let refused = |events: Vec<NewEvent>| {
            let write = Write { stream: StreamId::new("a", "b"), expected: Expected::Any, events };
            let checked = Append { writes: vec![write], ..Append::default() }.check();
            assert!(matches!(checked, Err(Invalid::TooLarge { limit: limits::APPEND_BYTES, .. })), "{checked:?}");
        };
        refused((0..4_100).map(event).collect());
        let mut events: Vec<_> = (0..4_080).map(event).collect();
        for event in &mut events[..10] {
            event.metadata.actor = Some("x".repeat(60_000));
        }
        refused(events);
    }
}
