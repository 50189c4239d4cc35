//! Whom a command is for, and which events make its state.

use std::{marker::PhantomData, sync::Arc};

use crate::{
    aggregate::{Aggregate, Decider, Member},
    event::{Event, Raw, Recorded, Tag},
    invalid::Invalid,
    store::{Item, Query},
    stream::{Id, StreamId},
};

/// What [`Store::load`](crate::Store::load) and [`Store::execute`](crate::Store::execute) act on: an id,
/// [`every`], a list of ids of one kind (`Vec<Id<_>>`, `&[Id<_>]`), or a tuple of up to four of these.
///
/// Of a tuple the first decides, and the events go into its stream; the others are consulted, and none of them may
/// change meanwhile. An aggregate that is consulted and must hear of what was decided is one `by_tag`.
///
/// The state of a list is a `Vec` of states, in the order of the ids. Of a list that decides, the first id does: the
/// events go into its stream. An empty list that is consulted is an empty `Vec`; one that is to decide has no stream, and
/// is [`Invalid::Request`]. An id that is there twice has two states, which are equal. Each id costs the read and the
/// append a look-up, so a list may have some hundreds of ids, not millions.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say which aggregate is meant",
    label = "expected an `Id<_>`, `every::<_>()`, a list of ids, or a tuple of these"
)]
pub trait Target {
    /// The state it has.
    type State: Decider;

    /// The events that make the state.
    fn boundary(&self) -> Boundary;
}

/// The events that make a state, and the stream that new ones go to.
#[derive(Clone, Debug)]
pub struct Boundary {
    pub(crate) stream: StreamId,
    /// Of each part.
    pub(crate) keys: Vec<Arc<str>>,
    /// How many parts each member has; empty, if each has one.
    lengths: Vec<usize>,
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
    fn one(stream: StreamId, key: &Arc<str>, part: Part) -> Self {
        Self { stream, keys: vec![key.clone()], lengths: vec![], parts: vec![part] }
    }

    fn list<A: Aggregate>(ids: &[Id<A>]) -> Self {
        let first = ids.first().map_or_else(|| StreamId::new(A::NAME, ""), Id::stream);
        let mut boundary = Self { stream: first, keys: vec![], lengths: vec![ids.len()], parts: vec![] };
        for id in ids {
            let Self { keys, parts, .. } = id.boundary();
            boundary.keys.extend(keys);
            boundary.parts.extend(parts);
        }
        boundary
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

impl<A: Aggregate> Target for Id<A> {
    type State = A;

    fn boundary(&self) -> Boundary {
        let part = if A::BY_TAG {
            Part::Query { item: Item { tags: vec![Tag::from(self)], ..heard::<A>() }, category: A::NAME }
        } else {
            Part::Stream(self.stream())
        };
        Boundary::one(self.stream(), self.shared_key(), part)
    }
}

/// The events that an aggregate knows, wherever they are, and those of the same categories that this program does not
/// know: to leave one out could make a wrong decision.
fn heard<A: Aggregate>() -> Item {
    Item { except: Some(A::Event::OTHERS.to_vec()), ..Item::names(A::Event::NAMES) }
}

impl<A: Aggregate> Target for [Id<A>] {
    type State = Vec<A>;

    fn boundary(&self) -> Boundary {
        Boundary::list(self)
    }
}

impl<A: Aggregate> Target for Vec<Id<A>> {
    type State = Vec<A>;

    fn boundary(&self) -> Boundary {
        Boundary::list(self)
    }
}

impl<A: Aggregate, const N: usize> Target for [Id<A>; N] {
    type State = Vec<A>;

    fn boundary(&self) -> Boundary {
        Boundary::list(self)
    }
}

/// One state over every event of its kind, whoever's it is. Made by [`every`].
#[derive(Clone, Copy, Debug)]
pub struct Every<A>(PhantomData<fn() -> A>);

/// One state over every event of its kind, whoever's it is: how many have enrolled anywhere, which names are taken.
///
/// What it decides goes to the stream `{category}-$every`, so no id may have the key `$every`. (Release 0.1 wrote to
/// `{category}-every`; what is there still counts.)
pub fn every<A: Aggregate>() -> Every<A> {
    Every(PhantomData)
}

/// The key of the stream that [`every`] writes to.
const EVERY: &str = "$every";
const EVERY_IN_0_1: &str = "every";

impl<A: Aggregate> Target for Every<A> {
    type State = A;

    fn boundary(&self) -> Boundary {
        let part = Part::Query { item: heard::<A>(), category: A::NAME };
        Boundary::one(StreamId::new(A::NAME, EVERY), &EVERY.into(), part)
    }
}

impl<T: Target + ?Sized> Target for &T {
    type State = T::State;

    fn boundary(&self) -> Boundary {
        (**self).boundary()
    }
}

macro_rules! target {
    ($($n:tt $T:ident $A:ident),+) => {
        impl<$($T: Target<State = $A>, $A: Member),+> Target for ($($T,)+) {
            type State = ($($A,)+);

            fn boundary(&self) -> Boundary {
                let boundaries = [$(self.$n.boundary()),+];
                let one_each = boundaries.iter().all(|boundary| boundary.lengths.is_empty());
                let lengths = boundaries.iter().map(|boundary| boundary.keys.len());
                Boundary {
                    stream: boundaries[0].stream.clone(),
                    lengths: if one_each { vec![] } else { lengths.collect() },
                    keys: boundaries.iter().flat_map(|boundary| boundary.keys.clone()).collect(),
                    parts: boundaries.into_iter().flat_map(|boundary| boundary.parts).collect(),
                }
            }
        }
    };
}
target!(0 T A);
target!(0 T A, 1 U B);
target!(0 T A, 1 U B, 2 V C);
target!(0 T A, 1 U B, 2 V C, 3 W D);
