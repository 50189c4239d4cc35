//! The rules: states made of events, commands answered with events.

use std::{error::Error, sync::Arc};

use crate::{
    __private::contains,
    boundary::Boundary,
    error::{EventError, StoreError},
    event::{Event, Raw, Recorded, Tag, Tagged},
    snapshot::{Policy, Snapshot},
    stream::{Id, StreamId},
};

/// A state made of its events, and of nothing else.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how its events change it",
    label = "no `impl Evolve for {Self}`"
)]
pub trait Evolve: Send + Sync + Sized + 'static {
    /// The events that make the state.
    type Event: Event;

    /// Applies one event. The event has happened, so it cannot be refused.
    ///
    /// A panic here is a mistake in the rules. At an event that `decide` has just returned it ends the command, and
    /// nothing is recorded; at a recorded event it would end every load.
    fn evolve(&mut self, event: Self::Event);

    /// Whether [`evolve_recorded`](Self::evolve_recorded) is called for each event, instead of `evolve`. A load then
    /// reads all stored fields of an event, not only its body, and a command reads its state again after it has
    /// recorded.
    const RECORDED: bool = false;

    /// Applies one event, given where and when it was recorded, by whom and why; for a state that depends on instants
    /// which the bodies do not repeat. As pure as `evolve`. Called where [`RECORDED`](Self::RECORDED) is true.
    ///
    /// For the events a rule returns it is called before they are recorded, to check that the state can apply them;
    /// their position and instants are estimates then, and the resulting state is thrown away.
    ///
    /// ```
    /// # use eventstore::{Raw, Timestamp, prelude::*};
    /// # #[derive(Event, Clone)]
    /// # enum TicketEvent { Opened, Closed }
    /// #[derive(Aggregate)]
    /// struct Ticket {
    ///     open: bool,
    ///     last_change: Timestamp,
    /// }
    ///
    /// impl Evolve for Ticket {
    ///     type Event = TicketEvent;
    ///
    ///     fn evolve(&mut self, event: TicketEvent) {
    ///         self.open = matches!(event, TicketEvent::Opened);
    ///     }
    ///
    ///     const RECORDED: bool = true;
    ///
    ///     fn evolve_recorded(&mut self, event: TicketEvent, recorded: &Recorded<Raw>) {
    ///         self.last_change = recorded.occurred_at;
    ///         self.evolve(event);
    ///     }
    /// }
    /// ```
    fn evolve_recorded(&mut self, event: Self::Event, recorded: &Recorded<Raw>) {
        let _ = recorded;
        self.evolve(event);
    }
}

/// A state with a name, of which there is one for every id. Derive it.
///
/// It is made of the events of its stream; with `#[aggregate(by_tag)]`, of the events of any stream that are tagged
/// with its id.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an aggregate",
    label = "not an aggregate",
    note = "add `#[derive(Aggregate)]` to `{Self}`"
)]
pub trait Aggregate: Evolve {
    /// The stream category, `account` in `account-ACC-42`. Part of the stored data.
    const NAME: &'static str;
    /// Whether its events are those of any stream tagged with its id, instead of those of its stream.
    const BY_TAG: bool = false;
    /// When and how snapshots of it are taken; see `#[aggregate(snapshot = 100)]`.
    const SNAPSHOT: Option<Snapshot<Self>> = None;
    /// Why a command may be refused.
    type Error: Error + Send + Sync + 'static;

    /// The state before the first event. The derive fills every field with its default, and `#[aggregate(id)]` with
    /// the id.
    fn blank(id: &Id<Self>) -> Self;
}

impl<A: Aggregate> Id<A> {
    /// Returns the stream of its events.
    pub fn stream(&self) -> StreamId {
        StreamId::new(A::NAME, self.key())
    }
}

impl<A: Aggregate> From<&Id<A>> for StreamId {
    fn from(id: &Id<A>) -> Self {
        id.stream()
    }
}

impl<A: Aggregate> From<Id<A>> for StreamId {
    fn from(id: Id<A>) -> Self {
        id.stream()
    }
}

impl<A: Aggregate> PartialEq<Id<A>> for StreamId {
    fn eq(&self, id: &Id<A>) -> bool {
        self.category() == A::NAME && self.key() == id.key()
    }
}

impl<A: Aggregate> From<&Id<A>> for Tag {
    fn from(id: &Id<A>) -> Self {
        Self::new(A::NAME, id)
    }
}

impl<A: Aggregate> Tagged for Id<A> {
    const TAG: &'static str = A::NAME;

    fn tag(&self, tags: &mut Vec<Tag>) {
        tags.push(self.into());
    }
}

/// The rule for one command, or for one enum of commands.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no rule for the command `{C}`",
    label = "no `impl Decide<{C}> for {Self}`"
)]
pub trait Decide<C>: Decider {
    /// Stored names of events that the decision does not depend on. Such events may be recorded between the read and
    /// the append of its decision, and are no conflict; every other event of the state is. By default all are.
    ///
    /// The names must be those of events that make the state, which is checked when the program is compiled.
    ///
    /// ```
    /// # use eventstore::prelude::*;
    /// # #[derive(Event, Clone)]
    /// # enum CourseEvent { Opened { seats: u32 }, Subscribed, Moved { room: String } }
    /// # #[derive(Aggregate)]
    /// # struct Course { seats: u32, room: String }
    /// # impl Evolve for Course {
    /// #     type Event = CourseEvent;
    /// #     fn evolve(&mut self, event: CourseEvent) {}
    /// # }
    /// # #[derive(Clone)]
    /// struct Move { room: String }
    ///
    /// impl Decide<Move> for Course {
    ///     /// Who subscribes meanwhile does not matter.
    ///     const UNAFFECTED_BY: &'static [&'static str] = &["course.subscribed"];
    ///
    ///     fn decide(&self, Move { room }: Move) -> Decision<Self> {
    ///         ensure!(room != self.room, "it is there already");
    ///         Ok(vec![CourseEvent::Moved { room }])
    ///     }
    /// }
    /// ```
    ///
    /// A name of no event of the state does not compile:
    ///
    /// ```compile_fail,E0080
    /// # use eventstore::prelude::*;
    /// # #[derive(Event, Clone)]
    /// # enum CourseEvent { Opened, Subscribed }
    /// # #[derive(Aggregate)]
    /// # struct Course {}
    /// # impl Evolve for Course {
    /// #     type Event = CourseEvent;
    /// #     fn evolve(&mut self, event: CourseEvent) {}
    /// # }
    /// # #[derive(Clone)]
    /// # struct Move;
    /// # impl Decide<Move> for Course {
    /// const UNAFFECTED_BY: &'static [&'static str] = &["course.subscribd"];
    /// #     fn decide(&self, Move: Move) -> Decision<Self> { Ok(vec![]) }
    /// # }
    /// # fn execute(store: &Store, course: &Id<Course>) {
    /// # let _ = store.execute(course, Move);
    /// # }
    /// # execute(&eventstore::MemoryStore::new().into(), &"rust".into());
    /// ```
    const UNAFFECTED_BY: &'static [&'static str] = &[];

    /// Returns the events that a command causes. Fails with the aggregate's error if the rule refuses the command.
    ///
    /// Pure: the command contains all that the rule needs besides the state. Called again, with a clone of the command,
    /// when another append was faster.
    fn decide(&self, command: C) -> Result<Vec<Self::Event>, Self::Error>;
}

/// Fails to compile unless a rule names only events that make its state, and not all of them.
pub(crate) const fn check_rule<S: Decide<C>, C>() {
    let (mut n, mut known, mut left) = (0, 0, 0);
    while n < S::EVENTS.len() {
        let mut i = 0;
        while i < S::EVENTS[n].len() {
            left += !contains(S::UNAFFECTED_BY, S::EVENTS[n][i]) as usize;
            i += 1;
        }
        n += 1;
    }
    n = 0;
    while n < S::UNAFFECTED_BY.len() {
        let mut i = 0;
        while i < S::EVENTS.len() && !contains(S::EVENTS[i], S::UNAFFECTED_BY[n]) {
            i += 1;
        }
        known += (i < S::EVENTS.len()) as usize;
        n += 1;
    }
    assert!(known == S::UNAFFECTED_BY.len(), "`UNAFFECTED_BY` names an event that does not make this state");
    assert!(left > 0 || known == 0, "`UNAFFECTED_BY` names every event of this state: a rule depends on one at least");
}

/// Two uninhabited commands that every decider handles. With a single `Decide` impl, rustc infers its command and
/// reports "expected `Open`, found `Close`"; more impls make it report the message of [`Decide`].
macro_rules! nobodys {
    ($($Command:ident)*) => {
        $(
            enum $Command {}

            #[doc(hidden)]
            #[diagnostic::do_not_recommend]
            impl<S: Decider> Decide<$Command> for S {
                fn decide(&self, command: $Command) -> Result<Vec<Self::Event>, Self::Error> {
                    match command {}
                }
            }
        )*
    };
}
nobodys!(Nobodys NobodysEither);

/// The result of a rule: events, or a refusal.
pub type Decision<A> = Result<Vec<<A as Decider>::Event>, <A as Decider>::Error>;

/// A state that commands are decided on: an aggregate, a list of one kind of aggregate, or a tuple of these, of which
/// the first decides and the others are consulted. Never implemented by hand.
pub trait Decider: Send + Sync + Sized + 'static {
    /// The events that a decision returns: those of the first.
    type Event: Event;
    /// Why a command may be refused: the error of the first.
    type Error: Error + Send + Sync + 'static;

    /// Whether the state is made of one stream, and so has a version.
    #[doc(hidden)]
    const ONE_STREAM: bool;

    /// Whether one of its parts has [`Evolve::RECORDED`].
    #[doc(hidden)]
    const RECORDED: bool;

    /// The names of the events that make the state, in lists.
    #[doc(hidden)]
    const EVENTS: &'static [&'static [&'static str]];

    #[doc(hidden)]
    fn blank(boundary: &Boundary) -> Self;

    /// Returns the snapshot policy of a part; `None` if it has no snapshots.
    #[doc(hidden)]
    fn snapshots(&self, part: usize) -> Option<Policy>;

    /// Returns the snapshot of a part; `None` if it has no snapshots. Fails with [`EventError`] if the part cannot be
    /// written.
    #[doc(hidden)]
    fn save(&self, part: usize) -> Option<Result<Vec<u8>, EventError>>;

    /// Replaces a part by its snapshot; `None` if it has no snapshots. Fails with [`EventError`] if the snapshot cannot
    /// be read.
    #[doc(hidden)]
    fn open(&mut self, part: usize, saved: &[u8]) -> Option<Result<(), EventError>>;

    /// Applies an event to a part. Fails with [`StoreError::Unreadable`] if the event cannot be decoded.
    #[doc(hidden)]
    fn take_in(&mut self, part: usize, event: &Recorded<Raw>) -> Result<(), StoreError>;
}

/// A member of a tuple: an aggregate, or a list of aggregates.
#[doc(hidden)]
pub trait Member: Decider {
    /// The names of its events.
    const NAMES: &'static [&'static str];

    /// Returns the states of these keys before their first events.
    fn blanks(keys: &[Arc<str>]) -> Self;

    /// Returns the number of its parts.
    fn parts(&self) -> usize;
}

/// Applies an event that was decoded.
pub(crate) fn apply<A: Evolve>(state: &mut A, event: A::Event, recorded: &Recorded<Raw>) {
    if A::RECORDED { state.evolve_recorded(event, recorded) } else { state.evolve(event) }
}

fn evolve<A: Evolve>(state: &mut A, event: &Recorded<Raw>) -> Result<(), StoreError> {
    event.decode_each(|data| apply(state, data, event)).map_err(|source| StoreError::unreadable(event, source))
}

fn save<A: Aggregate>(state: &A) -> Option<Result<Vec<u8>, EventError>> {
    A::SNAPSHOT.map(|snapshot| (snapshot.save)(state))
}

fn open<A: Aggregate>(state: &mut A, saved: &[u8]) -> Option<Result<(), EventError>> {
    A::SNAPSHOT.map(|snapshot| (snapshot.load)(saved).map(|saved| *state = saved))
}

fn blank<A: Aggregate>(key: &Arc<str>) -> A {
    A::blank(&Id::from_key(key.clone()))
}

impl<A: Aggregate> Decider for A {
    type Event = <A as Evolve>::Event;
    type Error = <A as Aggregate>::Error;

    const ONE_STREAM: bool = !A::BY_TAG;
    const RECORDED: bool = <A as Evolve>::RECORDED;
    const EVENTS: &'static [&'static [&'static str]] = &[<<A as Evolve>::Event as Event>::NAMES];

    fn blank(boundary: &Boundary) -> Self {
        blank(&boundary.keys[0])
    }

    fn snapshots(&self, _: usize) -> Option<Policy> {
        A::SNAPSHOT.map(Policy::from)
    }

    fn save(&self, _: usize) -> Option<Result<Vec<u8>, EventError>> {
        save(self)
    }

    fn open(&mut self, _: usize, saved: &[u8]) -> Option<Result<(), EventError>> {
        open(self, saved)
    }

    fn take_in(&mut self, _: usize, event: &Recorded<Raw>) -> Result<(), StoreError> {
        evolve(self, event)
    }
}

impl<A: Aggregate> Member for A {
    const NAMES: &'static [&'static str] = <<A as Evolve>::Event as Event>::NAMES;

    fn blanks(keys: &[Arc<str>]) -> Self {
        blank(&keys[0])
    }

    fn parts(&self) -> usize {
        1
    }
}

impl<A: Aggregate> Decider for Vec<A> {
    type Event = <A as Evolve>::Event;
    type Error = <A as Aggregate>::Error;

    const ONE_STREAM: bool = false;
    const RECORDED: bool = <A as Evolve>::RECORDED;
    const EVENTS: &'static [&'static [&'static str]] = &[<<A as Evolve>::Event as Event>::NAMES];

    fn blank(boundary: &Boundary) -> Self {
        Self::blanks(&boundary.keys)
    }

    fn snapshots(&self, _: usize) -> Option<Policy> {
        A::SNAPSHOT.map(Policy::from)
    }

    fn save(&self, part: usize) -> Option<Result<Vec<u8>, EventError>> {
        save(self.get(part)?)
    }

    fn open(&mut self, part: usize, saved: &[u8]) -> Option<Result<(), EventError>> {
        open(self.get_mut(part)?, saved)
    }

    fn take_in(&mut self, part: usize, event: &Recorded<Raw>) -> Result<(), StoreError> {
        self.get_mut(part).map_or(Ok(()), |state| evolve(state, event))
    }
}

impl<A: Aggregate> Member for Vec<A> {
    const NAMES: &'static [&'static str] = <<A as Evolve>::Event as Event>::NAMES;

    fn blanks(keys: &[Arc<str>]) -> Self {
        keys.iter().map(blank).collect()
    }

    fn parts(&self) -> usize {
        self.len()
    }
}

macro_rules! decider {
    ($($n:tt $A:ident),+) => {
        impl<$($A: Member),+> Decider for ($($A,)+) {
            type Event = <A as Decider>::Event;
            type Error = <A as Decider>::Error;

            const ONE_STREAM: bool = false;
            const RECORDED: bool = $($A::RECORDED)||+;
            const EVENTS: &'static [&'static [&'static str]] = &[$($A::NAMES),+];

            fn blank(boundary: &Boundary) -> Self {
                ($($A::blanks(boundary.keys_of($n)),)+)
            }

            fn snapshots(&self, part: usize) -> Option<Policy> {
                let mut first = 0;
                $(
                    if part < first + self.$n.parts() {
                        return self.$n.snapshots(part - first);
                    }
                    first += self.$n.parts();
                )+
                let _ = first;
                None
            }

            fn save(&self, part: usize) -> Option<Result<Vec<u8>, EventError>> {
                let mut first = 0;
                $(
                    if part < first + self.$n.parts() {
                        return self.$n.save(part - first);
                    }
                    first += self.$n.parts();
                )+
                let _ = first;
                None
            }

            fn open(&mut self, part: usize, saved: &[u8]) -> Option<Result<(), EventError>> {
                let mut first = 0;
                $(
                    if part < first + self.$n.parts() {
                        return self.$n.open(part - first, saved);
                    }
                    first += self.$n.parts();
                )+
                let _ = first;
                None
            }

            fn take_in(&mut self, part: usize, event: &Recorded<Raw>) -> Result<(), StoreError> {
                let mut first = 0;
                $(
                    if part < first + self.$n.parts() {
                        return self.$n.take_in(part - first, event);
                    }
                    first += self.$n.parts();
                )+
                let _ = first;
                Ok(())
            }
        }
    };
}
decider!(0 A);
decider!(0 A, 1 B);
decider!(0 A, 1 B, 2 C);
decider!(0 A, 1 B, 2 C, 3 D);

/// Returns an error unless a condition holds: `ensure!(self.open, AccountError::NotOpen)`, or in words if the error can
/// be made of them, as [`Refusal`](crate::Refusal) can:
/// `ensure!(amount <= self.balance, "only {} left", self.balance)`.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $format:literal $($arguments:tt)*) => {
        if !$condition {
            return ::core::result::Result::Err(::core::convert::Into::into(::std::format!($format $($arguments)*)));
        }
    };
    ($condition:expr, $error:expr $(,)?) => {
        if !$condition {
            return ::core::result::Result::Err($error);
        }
    };
}
