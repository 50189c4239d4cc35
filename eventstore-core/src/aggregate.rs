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
    /// What can happen to it.
    type Event: Event;

    /// Applies one event. It has happened: there is no refusing it.
    ///
    /// A panic here is a mistake in the rules. On what `decide` has just answered it ends the command, and nothing is
    /// recorded; on what is recorded already it would end every load.
    fn evolve(&mut self, event: Self::Event);

    /// Whether [`evolve_recorded`](Self::evolve_recorded) is called for each event, instead of `evolve`. A load then reads
    /// all that is stored of an event, not only its body, and a command reads its state again after it has recorded.
    const RECORDED: bool = false;

    /// Applies one event, and sees where and when it was recorded, by whom and why; for a state that depends on instants
    /// which the bodies do not repeat. As pure as `evolve`. Called where [`RECORDED`](Self::RECORDED) is true.
    ///
    /// For the answer of a rule it is called before the events are recorded, to see that the state can apply them; their
    /// position and instants are estimates then, and what it makes of them is thrown away.
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
/// Made of the events of its stream; with `#[aggregate(by_tag)]`, of the events tagged with its id, wherever they are.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an aggregate",
    label = "not an aggregate",
    note = "add `#[derive(Aggregate)]` to `{Self}`"
)]
pub trait Aggregate: Evolve {
    /// The stream category, `account` in `account-ACC-42`. Part of the stored data.
    const NAME: &'static str;
    /// Whether its events are those tagged with its id, wherever they are, or those of its stream.
    const BY_TAG: bool = false;
    /// When snapshots of it are taken, and how; see `#[aggregate(snapshot = 100)]`.
    const SNAPSHOT: Option<Snapshot<Self>> = None;
    /// Why a command may be refused.
    type Error: Error + Send + Sync + 'static;

    /// The state before the first event. The derive fills every field with its default, and `#[aggregate(id)]` with
    /// the id.
    fn blank(id: &Id<Self>) -> Self;
}

impl<A: Aggregate> Id<A> {
    /// The stream that keeps its events.
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
    /// Stored names of events that the rule's answer does not depend on. Such events may be recorded between the read and
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

    /// Answers a command with the events it causes, or says why not.
    ///
    /// Pure: whatever the rule needs besides the state travels in the command. Asked again, with a clone of the
    /// command, when another command was faster.
    fn decide(&self, command: C) -> Result<Vec<Self::Event>, Self::Error>;
}

/// Whether a rule names only events that make its state, and leaves one that it depends on.
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

/// Every decider has a rule for two commands without values. Where there is one rule only, rustc takes its command
/// for the one that is meant, and says "expected `Open`, found `Close`" instead of what [`Decide`] has to say.
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

/// What a rule answers.
pub type Decision<A> = Result<Vec<<A as Decider>::Event>, <A as Decider>::Error>;

/// What answers commands: an aggregate, a list of one kind of aggregate, or a tuple of these, of which the first decides
/// and the others are consulted. Never implemented by hand.
pub trait Decider: Send + Sync + Sized + 'static {
    /// What it answers with: the first's events.
    type Event: Event;
    /// Why it may refuse: the first's error.
    type Error: Error + Send + Sync + 'static;

    /// Whether it is made of one stream, so that a version says where it stands.
    #[doc(hidden)]
    const ONE_STREAM: bool;

    /// Whether one of its parts sees all that is stored of its events.
    #[doc(hidden)]
    const RECORDED: bool;

    /// The names of the events that make it, in lists.
    #[doc(hidden)]
    const EVENTS: &'static [&'static [&'static str]];

    #[doc(hidden)]
    fn blank(boundary: &Boundary) -> Self;

    /// Whether one of its parts has snapshots, and which.
    #[doc(hidden)]
    fn snapshots(&self, part: usize) -> Option<Policy>;

    /// Writes one of its parts as its snapshots are written.
    #[doc(hidden)]
    fn save(&self, part: usize) -> Option<Result<Vec<u8>, EventError>>;

    /// Puts what was written in the place of one of its parts.
    #[doc(hidden)]
    fn open(&mut self, part: usize, saved: &[u8]) -> Option<Result<(), EventError>>;

    /// Takes an event into one of its parts.
    #[doc(hidden)]
    fn take_in(&mut self, part: usize, event: &Recorded<Raw>) -> Result<(), StoreError>;
}

/// One of a tuple: an aggregate, or a list of them.
#[doc(hidden)]
pub trait Member: Decider {
    /// What its events are called.
    const NAMES: &'static [&'static str];

    /// Each of these has nothing behind it yet.
    fn blanks(keys: &[Arc<str>]) -> Self;

    /// How many parts it has.
    fn parts(&self) -> usize;
}

/// Applies what was read of one event.
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

/// Refuses unless something holds: `ensure!(self.open, AccountError::NotOpen)`, or in words where the error can be
/// made of them, as [`Refusal`](crate::Refusal) can: `ensure!(amount <= self.balance, "only {} left", self.balance)`.
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
