//! Whom a command is for, and which events make its state.

use std::{marker::PhantomData, sync::Arc};

use crate::{
    aggregate::{Aggregate, Decider},
    event::{Event, Raw, Recorded, Tag},
    store::{Item, Query},
    stream::{Id, StreamId},
};

/// What [`Store::load`](crate::Store::load) and [`Store::execute`](crate::Store::execute) act on: an id,
/// [`every`], or a tuple of up to four of them.
///
/// Of a tuple the first decides, and the events go into its stream; the others are consulted, and none of them may
/// change meanwhile. An aggregate that is consulted and must hear of what was decided is one `by_tag`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say which aggregate is meant",
    label = "expected an `Id<_>`, `every::<_>()`, or a tuple of them"
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
    pub(crate) keys: Vec<Arc<str>>,
    pub(crate) parts: Vec<Part>,
}

/// What commands take turns on.
#[derive(Hash)]
pub(crate) enum TurnOn<'a> {
    Stream(&'a str),
    Tags(&'a [Tag]),
    Every(&'a str),
}

/// The events of one aggregate of a tuple.
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

    pub(crate) fn matches(&self, event: &Recorded<Raw>) -> bool {
        match self {
            Self::Stream(stream) => *stream == event.stream,
            Self::Query { item, .. } => item.matches(&event.stream, &event.data),
        }
    }
}

impl Boundary {
    fn one(stream: StreamId, key: &Arc<str>, part: Part) -> Self {
        Self { stream, keys: vec![key.clone()], parts: vec![part] }
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

    /// Whose state it is: the stream or the tag of each part.
    pub(crate) fn whose(&self) -> impl Iterator<Item = String> {
        self.parts.iter().map(|part| match part {
            Part::Stream(stream) => stream.to_string(),
            Part::Query { item, .. } => item.tags.first().map_or_else(|| EVERY.into(), ToString::to_string),
        })
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
            let item = Item { tags: vec![Tag::from(self)], ..Item::names(A::Event::NAMES) };
            Part::Query { item, category: A::NAME }
        } else {
            Part::Stream(self.stream())
        };
        Boundary::one(self.stream(), self.shared_key(), part)
    }
}

/// One state over every event of its kind, whoever's it is. Made by [`every`].
#[derive(Clone, Copy, Debug)]
pub struct Every<A>(PhantomData<fn() -> A>);

/// One state over every event of its kind, whoever's it is: how many have enrolled anywhere, which names are taken.
///
/// What it decides goes to the stream `{category}-every`.
pub fn every<A: Aggregate>() -> Every<A> {
    Every(PhantomData)
}

const EVERY: &str = "every";

impl<A: Aggregate> Target for Every<A> {
    type State = A;

    fn boundary(&self) -> Boundary {
        let part = Part::Query { item: Item::names(A::Event::NAMES), category: A::NAME };
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
        impl<$($T: Target<State = $A>, $A: Aggregate),+> Target for ($($T,)+) {
            type State = ($($A,)+);

            fn boundary(&self) -> Boundary {
                let boundaries = [$(self.$n.boundary()),+];
                Boundary {
                    stream: boundaries[0].stream.clone(),
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
