//! The targets of commands, and the events that make their states.

use std::marker::PhantomData;

use crate::{
    aggregate::{Aggregate, Decider, Member},
    boundary::{Boundary, EVERY, Part},
    contract::Item,
    event::{Event, Tag},
    stream::{Id, StreamId},
};

/// The target of [`Store::load`](crate::Store::load) and [`Store::execute`](crate::Store::execute): an id, [`every`], a
/// list of ids of one kind (`Vec<Id<_>>`, `&[Id<_>]`), or a tuple of up to four of these.
///
/// Of a tuple the first member decides, and the events go into its stream; the other members are consulted, and none of
/// them may change meanwhile. If a consulted aggregate must get the decided events too, declare it `by_tag`.
///
/// The state of a list is a `Vec` of states, in the order of the ids. If a list decides, the events go into the stream
/// of its first id. An empty list that is consulted is an empty `Vec`; an empty list that must decide has no stream,
/// and the command fails with [`Invalid::Request`](crate::Invalid::Request). An id that is listed twice has two states,
/// which are equal. Each id costs the read and the append a look-up, so a list may have some hundreds of ids, not
/// millions.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say which aggregate is meant",
    label = "expected an `Id<_>`, `every::<_>()`, a list of ids, or a tuple of these"
)]
pub trait Target {
    /// The state of the target.
    type State: Decider;

    /// Returns the events that make the state.
    fn boundary(&self) -> Boundary;
}

impl Boundary {
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
}

impl<A: Aggregate> Target for Id<A> {
    type State = A;

    fn boundary(&self) -> Boundary {
        let part = if A::BY_TAG {
            Part::Query { item: Item { tags: vec![Tag::from(self)], ..events_read::<A>() }, category: A::NAME }
        } else {
            Part::Stream(self.stream())
        };
        Boundary::one(self.stream(), self.shared_key(), part)
    }
}

/// Returns the events that an aggregate knows, of any stream, and the events of the same categories that this program
/// does not know: leaving one out could make a wrong decision.
fn events_read<A: Aggregate>() -> Item {
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

/// One state over every event of its kind, of all streams. Made by [`every`].
#[derive(Clone, Copy, Debug)]
pub struct Every<A>(PhantomData<fn() -> A>);

/// Returns the target of one state over every event of its kind, of all streams: how many have enrolled anywhere, which
/// names are taken.
///
/// Its decisions go to the stream `{category}-$every`, so no id may have the key `$every`. (Release 0.1 wrote to
/// `{category}-every`; those events still count.)
pub fn every<A: Aggregate>() -> Every<A> {
    Every(PhantomData)
}

impl<A: Aggregate> Target for Every<A> {
    type State = A;

    fn boundary(&self) -> Boundary {
        let part = Part::Query { item: events_read::<A>(), category: A::NAME };
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
