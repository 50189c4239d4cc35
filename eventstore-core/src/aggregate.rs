//! The rules: states made of events, commands answered with events.

use std::{error::Error, sync::Arc};

use crate::{
    error::StoreError,
    event::{Event, EventError, Raw, Recorded, Tag, Tagged},
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

    /// Takes in one event. It has happened: there is no refusing it.
    ///
    /// A panic here is a mistake in the rules. On what `decide` has just answered it ends the command, and nothing is
    /// recorded; on what is recorded already it would end every load.
    fn evolve(&mut self, event: Self::Event);
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
    /// Answers a command with the events it causes, or says why not.
    ///
    /// Pure: whatever the rule needs besides the state travels in the command. Asked again, with a clone of the
    /// command, when somebody else was faster.
    fn decide(&self, command: C) -> Result<Vec<Self::Event>, Self::Error>;
}

/// Everybody has a rule for two commands that nobody can give. Where there is one rule only, rustc takes its command
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

/// Whoever answers commands: an aggregate, or a tuple of aggregates of which the first decides and the others are
/// consulted. Never implemented by hand.
pub trait Decider: Send + Sync + Sized + 'static {
    /// What it answers with: the first's events.
    type Event: Event;
    /// Why it may refuse: the first's error.
    type Error: Error + Send + Sync + 'static;

    /// Whether it is made of one stream, so that a version says where it stands.
    #[doc(hidden)]
    const ONE_STREAM: bool;

    #[doc(hidden)]
    fn blank(keys: &[Arc<str>]) -> Self;

    /// Whether one of its parts has snapshots, and which.
    #[doc(hidden)]
    fn snapshots(part: usize) -> Option<Policy>;

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

fn evolve<A: Evolve>(state: &mut A, event: &Recorded<Raw>) -> Result<(), StoreError> {
    event.decode_each(|data| state.evolve(data)).map_err(|source| StoreError::unreadable(event, source))
}

fn save<A: Aggregate>(state: &A) -> Option<Result<Vec<u8>, EventError>> {
    A::SNAPSHOT.map(|snapshot| (snapshot.save)(state))
}

fn open<A: Aggregate>(state: &mut A, saved: &[u8]) -> Option<Result<(), EventError>> {
    A::SNAPSHOT.map(|snapshot| (snapshot.load)(saved).map(|saved| *state = saved))
}

impl<A: Aggregate> Decider for A {
    type Event = <A as Evolve>::Event;
    type Error = <A as Aggregate>::Error;

    const ONE_STREAM: bool = !A::BY_TAG;

    fn blank(keys: &[Arc<str>]) -> Self {
        Aggregate::blank(&Id::from_key(keys[0].clone()))
    }

    fn snapshots(_: usize) -> Option<Policy> {
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

macro_rules! decider {
    ($($n:tt $A:ident),+) => {
        impl<$($A: Aggregate),+> Decider for ($($A,)+) {
            type Event = <A as Evolve>::Event;
            type Error = <A as Aggregate>::Error;

            const ONE_STREAM: bool = false;

            fn blank(keys: &[Arc<str>]) -> Self {
                ($($A::blank(&Id::from_key(keys[$n].clone())),)+)
            }

            fn snapshots(part: usize) -> Option<Policy> {
                match part {
                    $($n => $A::SNAPSHOT.map(Policy::from),)+
                    _ => None,
                }
            }

            fn save(&self, part: usize) -> Option<Result<Vec<u8>, EventError>> {
                match part {
                    $($n => save(&self.$n),)+
                    _ => None,
                }
            }

            fn open(&mut self, part: usize, saved: &[u8]) -> Option<Result<(), EventError>> {
                match part {
                    $($n => open(&mut self.$n, saved),)+
                    _ => None,
                }
            }

            fn take_in(&mut self, part: usize, event: &Recorded<Raw>) -> Result<(), StoreError> {
                match part {
                    $($n => evolve(&mut self.$n, event),)+
                    _ => Ok(()),
                }
            }
        }
    };
}
decider!(0 A);
decider!(0 A, 1 B);
decider!(0 A, 1 B, 2 C);
decider!(0 A, 1 B, 2 C, 3 D);

/// A refusal in words, for aggregates that name no error type of their own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl From<String> for Refusal {
    fn from(words: String) -> Self {
        Self(words)
    }
}

impl From<&str> for Refusal {
    fn from(words: &str) -> Self {
        Self(words.into())
    }
}

/// Refuses unless something holds: `ensure!(self.open, AccountError::NotOpen)`, or in words where the error can be
/// made of them, as [`Refusal`] can: `ensure!(amount <= self.balance, "only {} left", self.balance)`.
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
