//! Which events make a state, and which stream gets new ones.

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

/// The events that make a state, and the stream that new ones go to.
#[derive(Clone, Debug)]
pub struct Boundary {
    pub(crate) stream: StreamId,
    /// Of each part.
    pub(crate) keys: Vec<Arc<str>>,
    /// How many parts each member has; empty, if each has one.
    pub(crate) lengths: Vec<usize>,
    pub(crate) parts: Vec<Part>,
}

/// What commands take turns on.
#[derive(Hash)]
pub(crate) enum TurnOn<'a> {
    Stream(&'a str),
    Tags(&'a [Tag]),
    Every(&'a str),
}

/// The events of one aggregate.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Those of its stream: the version says whether it changed.
    Stream(StreamId),
    /// Those that match, wherever they are: only another read says whether something came.
    Query { item: Item, category: &'static str },
}

impl Part {
    /// The policy for snapshots of this part.
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

    /// What a snapshot of it is kept under: a stream, a tag, or the category of every event of a kind.
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

    /// Whether events of a type, in a stream, may belong to it.
    fn may_get<E: Event>(&self, stream: &StreamId) -> bool {
        match self {
            Self::Stream(own) => own == stream,
            Self::Query { item, .. } => {
                item.tags.iter().all(|tag| E::TAGS.contains(&&*tag.name))
                    && item.names.iter().any(|name| E::NAMES.contains(&&**name))
            }
        }
    }

    /// Whether an event has the tags that its events have.
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

    /// The keys of a member.
    pub(crate) fn keys_of(&self, member: usize) -> &[Arc<str>] {
        match self.lengths.get(member) {
            None => &self.keys[member..=member],
            Some(length) => {
                let first = self.lengths[..member].iter().sum();
                &self.keys[first..first + length]
            }
        }
    }

    /// The stream, if nothing else makes the state.
    pub(crate) fn one_stream(&self) -> Option<&StreamId> {
        match &self.parts[..] {
            [Part::Stream(stream)] => Some(stream),
            _ => None,
        }
    }

    pub(crate) fn query(&self) -> Query {
        Query { items: self.parts.iter().map(Part::item).collect() }
    }

    /// What a command takes turns on, for answers of type `E`: exclusively (`true`) where its events may change the part,
    /// shared with other consulting commands where they cannot.
    pub(crate) fn turns<E: Event>(&self) -> impl ExactSizeIterator<Item = (TurnOn<'_>, bool)> {
        let one = self.parts.len() == 1;
        self.parts.iter().map(move |part| (part.turn(), one || part.may_get::<E>(&self.stream)))
    }

    /// Whether it has its answers recorded in this stream, or had in release 0.1.
    pub(crate) fn records_in(&self, stream: &StreamId) -> bool {
        let before = |category: &str| StreamId::new(category, EVERY_IN_0_1) == *stream;
        *stream == self.stream || self.every().is_some_and(before)
    }

    /// The category, if [`every`] event of a kind decides.
    fn every(&self) -> Option<&'static str> {
        match self.parts.first() {
            Some(Part::Query { item, category }) if item.tags.is_empty() => Some(category),
            _ => None,
        }
    }

    /// Refuses what cannot decide: an empty list, and an id whose stream is the one that [`every`] writes to.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if self.lengths.first() == Some(&0) {
            return Err(Invalid::Request("a list that is to decide has no id in it".into()));
        }
        if self.stream.key() == EVERY && self.every().is_none() {
            return Err(Invalid::name("key", EVERY, "is reserved for the decisions of `every`"));
        }
        Ok(())
    }

    /// Whose state it is: the stream or the tag of each part.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.parts.iter().map(Part::name)
    }

    /// The places of the parts that an event concerns, if it concerns any.
    pub(crate) fn concerned<'a>(&'a self, event: &'a Recorded<Raw>) -> impl Iterator<Item = usize> + 'a {
        self.parts.iter().enumerate().filter(|(_, part)| part.matches(event)).map(|(n, _)| n)
    }
}
