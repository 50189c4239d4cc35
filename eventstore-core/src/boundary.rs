//! The events that make a state, and the stream that new events go to.

use std::sync::Arc;

use crate::{
    contract::{Item, Query},
    event::{Event, Raw, Recorded, Tag},
    invalid::Invalid,
    snapshot::Policy,
    stream::StreamId,
};

/// The key of the stream that [`every`] writes to.
pub(crate) const EVERY: &str = "$every";
const EVERY_IN_0_1: &str = "every";

/// The events that make a state, and the stream that new events go to.
#[derive(Clone, Debug)]
pub struct Boundary {
    pub(crate) stream: StreamId,
    /// The key of each part.
    pub(crate) keys: Vec<Arc<str>>,
    /// The number of parts of each member; empty if each has one.
    pub(crate) lengths: Vec<usize>,
    pub(crate) parts: Vec<Part>,
}

/// The boundary of a part, on which commands take turns.
#[derive(Hash)]
pub(crate) enum TurnOn<'a> {
    Stream(&'a str),
    Tags(&'a [Tag]),
    Every(&'a str),
}

/// The events of one aggregate.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// The events of its stream: the version shows whether the part has changed.
    Stream(StreamId),
    /// The matching events of any stream: only another read shows whether the part has changed.
    Query { item: Item, category: &'static str },
}

impl Part {
    /// Returns the policy for snapshots of this part.
    pub(crate) fn policy(&self, policy: Policy) -> Policy {
        match self {
            Self::Stream(_) => policy,
            Self::Query { .. } => policy.of_query(),
        }
    }

    pub(crate) fn item(&self) -> Item {
        match self {
            Self::Stream(stream) => Item::of(stream),
            Self::Query { item, .. } => item.clone(),
        }
    }

    /// Returns the name its snapshots are kept under: a stream, a tag, or a category and `*` for every event of a kind.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stream(stream) => stream.to_string(),
            Self::Query { item, category } => match &item.tags[..] {
                [tag] => tag.to_string(),
                // Neither `-` nor `:`, so it is no stream and no tag.
                _ => format!("{category}*"),
            },
        }
    }

    fn turn(&self) -> TurnOn<'_> {
        match self {
            Self::Stream(stream) => TurnOn::Stream(stream.as_str()),
            Self::Query { item, category } if item.tags.is_empty() => TurnOn::Every(category),
            Self::Query { item, .. } => TurnOn::Tags(&item.tags),
        }
    }

    /// Whether events of a type in a stream may belong to the part.
    fn may_get<E: Event>(&self, stream: &StreamId) -> bool {
        match self {
            Self::Stream(own) => own == stream,
            Self::Query { item, .. } => {
                item.tags.iter().all(|tag| E::TAGS.contains(&&*tag.name))
                    && item.names.iter().any(|name| E::NAMES.contains(&&**name))
            }
        }
    }

    /// Whether an event has the tags of the part.
    pub(crate) fn has_tags(&self, event: &Recorded<Raw>) -> bool {
        matches!(self, Self::Query { item, .. } if item.tags.iter().all(|tag| event.data.tags.contains(tag)))
    }

    pub(crate) fn matches(&self, event: &Recorded<Raw>) -> bool {
        match self {
            Self::Stream(stream) => *stream == event.stream,
            Self::Query { item, .. } => item.matches(&event.stream, &event.data),
        }
    }
}

impl Boundary {
    pub(crate) fn one(stream: StreamId, key: &Arc<str>, part: Part) -> Self {
        Self { stream, keys: vec![key.clone()], lengths: vec![], parts: vec![part] }
    }

    /// Returns the keys of a member.
    pub(crate) fn keys_of(&self, member: usize) -> &[Arc<str>] {
        match self.lengths.get(member) {
            None => &self.keys[member..=member],
            Some(length) => {
                let first = self.lengths[..member].iter().sum();
                &self.keys[first..first + length]
            }
        }
    }

    /// Returns the stream if it alone makes the state.
    pub(crate) fn one_stream(&self) -> Option<&StreamId> {
        match &self.parts[..] {
            [Part::Stream(stream)] => Some(stream),
            _ => None,
        }
    }

    pub(crate) fn query(&self) -> Query {
        Query { items: self.parts.iter().map(Part::item).collect() }
    }

    /// Returns the turns of a command that appends events of type `E`: exclusive (`true`) on a part that its events may
    /// change, else shared with other commands that only consult the part.
    pub(crate) fn turns<E: Event>(&self) -> impl ExactSizeIterator<Item = (TurnOn<'_>, bool)> {
        let one = self.parts.len() == 1;
        self.parts.iter().map(move |part| (part.turn(), one || part.may_get::<E>(&self.stream)))
    }

    /// Whether its decisions go to this stream, or went there in release 0.1.
    pub(crate) fn records_in(&self, stream: &StreamId) -> bool {
        let before = |category: &str| StreamId::new(category, EVERY_IN_0_1) == *stream;
        *stream == self.stream || self.every().is_some_and(before)
    }

    /// Returns the category if [`every`] event of a kind decides.
    fn every(&self) -> Option<&'static str> {
        match self.parts.first() {
            Some(Part::Query { item, category }) if item.tags.is_empty() => Some(category),
            _ => None,
        }
    }

    /// Fails with [`Invalid`] if the boundary cannot decide: an empty list, or an id whose stream is the one that
    /// [`every`] writes to.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if self.lengths.first() == Some(&0) {
            return Err(Invalid::Request("a list that is to decide has no id in it".into()));
        }
        if self.stream.key() == EVERY && self.every().is_none() {
            return Err(Invalid::name("key", EVERY, "is reserved for the decisions of `every`"));
        }
        Ok(())
    }

    /// Returns the name of each part: its stream or its tag.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.parts.iter().map(Part::name)
    }

    /// Returns the indexes of the parts that an event concerns.
    pub(crate) fn concerned<'a>(&'a self, event: &'a Recorded<Raw>) -> impl Iterator<Item = usize> + 'a {
        self.parts.iter().enumerate().filter(|(_, part)| part.matches(event)).map(|(n, _)| n)
    }
}
