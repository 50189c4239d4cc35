//! Given, when, then: rules tested without a store, a clock or a runtime.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
//! use eventstore::testing::*;
//!
//! # fn main() {
//! Account::given([Opened { owner: "Ann".into() }, Deposited { amount: 100 }])
//!     .when(Withdraw { amount: 60 })
//!     .then([Withdrawn { amount: 60 }])
//!     .when(Withdraw { amount: 60 })
//!     .then_rejected("only 40 left");
//!
//! Balance::after(Id::<Account>::from("ann"), [Deposited { amount: 5 }]).then("ann", Balance { balance: 5 });
//! # }
//! ```
//!
//! A check that fails panics at the line of the check, with the lines that differ.

use std::{fmt::Debug, time::SystemTime};

use uuid::Uuid;

mod given_steps;
mod simulate;
mod when;

pub use self::{
    given_steps::{GivenPlan, GivenSteps},
    simulate::{Explored, Simulation, SimulationFailure, World},
    when::{Hearing, Said, When, reacting},
};
pub use crate::clock::Clock;
use crate::{
    aggregate::{Aggregate, Decide, Decider, Evolve, check_rule},
    boundary::Boundary,
    encode,
    event::{Event, Raw, Recorded},
    load::Fold,
    metadata::Metadata,
    read_model::{ReadModel, RowFold},
    stream::{Id, Position, StreamId, Version},
    target::Target,
    timestamp::Timestamp,
};

/// `Account::given([…]).when(Withdraw { … }).then([…])`: the rules of one aggregate.
pub trait Given: Aggregate {
    /// Gives its earlier events. Its id is `given`; a rule that needs a certain id, or tags, is tested with the
    /// function [`given`].
    fn given(events: impl IntoIterator<Item = <Self as Evolve>::Event>) -> GivenOne<Self> {
        let mut given = GivenOne { state: <Self as Aggregate>::blank(&Id::from("given")), events: 0 };
        events.into_iter().for_each(|event| given.take(event));
        given
    }

    /// Takes a snapshot after every event, goes on from the state read back, and panics if that differs from the state
    /// without snapshots.
    ///
    /// It finds data that a snapshot would lose: a field that serde skips, or a form that cannot be read back.
    #[track_caller]
    fn survives_snapshots(events: impl IntoIterator<Item = <Self as Evolve>::Event>)
    where
        Self: Debug + PartialEq,
    {
        const { assert!(Self::SNAPSHOT.is_some(), "add `#[aggregate(snapshot = 100)]` to keep snapshots of this state") }
        let Some(policy) = Self::SNAPSHOT else { return };
        let blank = || <Self as Aggregate>::blank(&Id::from("given"));
        let (mut state, mut kept) = (blank(), blank());
        for (event, n) in events.into_iter().zip(1..) {
            take(&mut state, event.clone(), n);
            take(&mut kept, event, n);
            let bytes =
                (policy.save)(&kept).unwrap_or_else(|error| panic!("cannot be written after event {n}: {error}"));
            kept = (policy.load)(&bytes).unwrap_or_else(|error| panic!("cannot be read back after event {n}: {error}"));
            let without = format!("{state:#?}");
            assert!(state == kept, "a snapshot after event {n} changed it\n{}", diff(&without, &format!("{kept:#?}")));
        }
    }
}

impl<A: Aggregate> Given for A {}

/// An aggregate with its earlier events.
pub struct GivenOne<A> {
    state: A,
    events: u64,
}

/// Applies the n-th event of an aggregate.
fn take<A: Aggregate>(state: &mut A, event: <A as Evolve>::Event, n: u64) {
    if !<A as Evolve>::RECORDED {
        return state.evolve(event);
    }
    let stream = StreamId::new(A::NAME, "given");
    let recorded = recorded(stream, Version(n), Position(n), Timestamp::default(), &event);
    state.evolve_recorded(event, &recorded);
}

impl<A: Aggregate> GivenOne<A> {
    fn take(&mut self, event: <A as Evolve>::Event) {
        self.events += 1;
        take(&mut self.state, event, self.events);
    }

    /// Calls the rule with a command.
    pub fn when<C>(self, command: C) -> Answer<A, Self>
    where
        // Spelled out: under the bound `A: Decide<C>`, rustc no longer sees that `Decider::Event` is `Evolve::Event`.
        A: Decide<C, Event = <A as Evolve>::Event>,
    {
        const { check_rule::<A, C>() }
        let answer = self.state.decide(command);
        let next = |mut given: Self, events: Vec<<A as Decider>::Event>| {
            events.into_iter().for_each(|event| given.take(event));
            given
        };
        Answer { answer, given: self, next: Box::new(next) }
    }
}

/// Gives earlier events, stream by stream, for rules over several streams:
/// `given(&rust, [opened]).given(&ann, [joined]).when((&rust, &ann), Enrol).then([…])`.
pub fn given<T: Target>(stream: T, events: impl IntoIterator<Item = <T::State as Decider>::Event>) -> GivenLog {
    GivenLog::default().given(stream, events)
}

/// A log of earlier events.
#[derive(Default)]
pub struct GivenLog {
    log: Vec<Recorded<Raw>>,
    now: Timestamp,
}

impl GivenLog {
    /// The instant at which events from here on, given or decided, happened and were recorded; the start of 1970 by
    /// default. For states that read it ([`Evolve::evolve_recorded`]): `GivenLog::default().at(noon).given(&ann, […])`.
    pub fn at(mut self, time: impl Into<SystemTime>) -> Self {
        self.now = time.into().into();
        self
    }

    /// Gives further earlier events.
    pub fn given<T: Target>(
        mut self,
        stream: T,
        events: impl IntoIterator<Item = <T::State as Decider>::Event>,
    ) -> Self {
        for event in events {
            self.record(stream.boundary().stream, &event);
        }
        self
    }

    fn record<E: Event>(&mut self, stream: StreamId, event: &E) {
        let version = self.log.iter().filter(|event| event.stream == stream).count() as u64 + 1;
        let position = self.log.len() as u64 + 1;
        self.log.push(recorded(stream, Version(version), Position(position), self.now, event));
    }

    /// Calls the rule of the first member of the target, with the states of the others.
    pub fn when<T: Target, C>(self, target: T, command: C) -> Answer<T::State, Self>
    where
        T::State: Decide<C>,
    {
        let boundary = target.boundary();
        const { check_rule::<T::State, C>() }
        let answer = self.fold::<T::State>(&boundary).decide(command);
        let next = move |mut given: Self, events: Vec<<T::State as Decider>::Event>| {
            events.iter().for_each(|event| given.record(boundary.stream.clone(), event));
            given
        };
        Answer { answer, given: self, next: Box::new(next) }
    }

    fn fold<S: Decider>(&self, boundary: &Boundary) -> S {
        let mut fold = Fold::<S>::blank(boundary);
        for event in &self.log {
            fold.take_in(boundary, event).expect("events of a test can be read");
        }
        fold.loaded.state
    }
}

type Next<D, G> = Box<dyn FnOnce(G, Vec<<D as Decider>::Event>) -> G>;

/// The result of a rule, to be compared with the expected result.
#[must_use = "nothing is compared until `then` or `then_rejected`"]
pub struct Answer<D: Decider, G> {
    answer: Result<Vec<D::Event>, D::Error>,
    given: G,
    next: Next<D, G>,
}

impl<D: Decider, G> Answer<D, G>
where
    D::Event: Debug + PartialEq,
    D::Error: Debug + PartialEq,
{
    /// Expects these events, in this order. They count as given from here on.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = D::Event>) -> G {
        compare(&Ok(expected.into_iter().collect()), &self.answer);
        (self.next)(self.given, self.answer.unwrap_or_default())
    }

    /// Expects a refusal for this reason: words for a [`Refusal`](crate::Refusal), else the error.
    #[track_caller]
    pub fn then_rejected(self, reason: impl Into<D::Error>) -> G {
        compare(&Err(reason.into()), &self.answer);
        self.given
    }
}

/// `Balance::after(&ann, […]).then(&ann, Balance { … })`: the rows of a read model.
pub trait After: ReadModel + Sized {
    /// Applies events of one stream.
    fn after<T: Target>(stream: T, events: impl IntoIterator<Item = impl Into<Self::Event>>) -> Projected<Self> {
        Projected { rows: RowFold::default(), seen: 0 }.after(stream, events)
    }
}

impl<M: ReadModel> After for M {}

/// The rows that events have made.
pub struct Projected<M> {
    rows: RowFold<M>,
    seen: u64,
}

impl<M: ReadModel> Projected<M> {
    /// Applies further events, of one stream.
    pub fn after<T: Target>(mut self, stream: T, events: impl IntoIterator<Item = impl Into<M::Event>>) -> Self {
        for event in events {
            self.seen += 1;
            let (version, position) = (Version(self.seen), Position(self.seen));
            let raw = recorded(stream.boundary().stream, version, position, Timestamp::default(), &event.into());
            self.rows.apply(&raw, |_, _| {}).expect("events of a test can be read");
        }
        self
    }

    /// Expects this row under this key.
    #[track_caller]
    pub fn then(self, key: impl AsRef<str>, expected: M) -> Self
    where
        M: Debug + PartialEq,
    {
        compare(&Some(&expected), &self.rows.get(key.as_ref()));
        self
    }

    /// Expects no row under this key.
    #[track_caller]
    pub fn then_none(self, key: impl AsRef<str>) -> Self
    where
        M: Debug + PartialEq,
    {
        compare(&None, &self.rows.get(key.as_ref()));
        self
    }
}

/// Returns an event as a store returns it: written and read.
fn recorded<E: Event>(
    stream: StreamId,
    version: Version,
    position: Position,
    time: Timestamp,
    event: &E,
) -> Recorded<Raw> {
    let (stored, _) = encode::stored(event).expect("events of a test can be written");
    let new = stored.stamp(Uuid::from_u128(position.0.into()), &Metadata::default(), None);
    new.recorded(stream, version, position, time)
}

/// Returns an event as a reader decodes it: recorded at an instant, with metadata.
fn decoded<E: Event>(
    stream: StreamId,
    position: Position,
    recorded_at: Timestamp,
    metadata: Metadata,
    event: &E,
) -> Recorded<E> {
    let (stored, again) = encode::stored(event).expect("events of a test can be written");
    let new = stored.stamp(Uuid::from_u128(position.0.into()), &metadata, None);
    new.recorded(stream, Version(position.0), position, recorded_at).with(again)
}

#[track_caller]
fn compare<T: Debug + PartialEq>(expected: &T, actual: &T) {
    if expected != actual {
        let lines = diff(&format!("{expected:#?}"), &format!("{actual:#?}"));
        panic!("not what was expected (- expected, + actual)\n{lines}");
    }
}

/// Returns the lines of both texts along their longest common subsequence, with marks at lines that only one text has.
fn diff(expected: &str, actual: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    let mut common = vec![vec![0; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] =
                if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < old.len() || j < new.len() {
        let both = i < old.len() && j < new.len() && old[i] == new[j];
        let gone = i < old.len() && (j == new.len() || common[i + 1][j] >= common[i][j + 1]);
        let (mark, line) = match (both, gone) {
            (true, _) => (' ', old[i]),
            (_, true) => ('-', old[i]),
            _ => ('+', new[j]),
        };
        i += usize::from(both || gone);
        j += usize::from(both || !gone);
        text.extend([mark, ' ']);
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_differ_are_marked() {
        assert_eq!(diff("a\nb\nc", "a\nx\nc\nd"), "  a\n- b\n+ x\n  c\n+ d\n");
        assert_eq!(diff("", "a"), "+ a\n");
    }
}
