//! Sagas: a state of their own, folded from events, and commands for each of them.

use std::marker::PhantomData;

use crate::{
    aggregate::Evolve,
    error::EventError,
    event::{Event, Raw, Recorded},
    invalid::Invalid,
    process::{
        commands::Commands,
        instance::{StoredInstance, Timer},
        outcome::Outcome,
        progress::SagaStatus,
        rules::{Process, Unanswerable},
        script::Script,
    },
    stream::Position,
    timestamp::Timestamp,
};

/// What a saga says to its events.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what it answers its events with",
    label = "no `impl React for {Self}`",
    note = "a saga with declared steps implements `Steps`, and says so: `#[saga(steps)]`"
)]
pub trait React: Evolve {
    /// What is said to an event; `self` is the state before it.
    ///
    /// Pure: asked again after a crash, or when a timer is due, it says the same.
    fn react(&self, event: &Recorded<Self::Event>) -> Commands;
}

/// A process with a memory: hears events, folds a state, sends commands. Derive it.
///
/// With [`React`] it says freely what follows from what; with [`Steps`](crate::Steps) it declares steps, each with an
/// action and its compensation.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a saga",
    label = "not a saga",
    note = "add `#[derive(Saga)]` to `{Self}`"
)]
pub trait Saga: Clone + Send + Sync + 'static {
    /// The name: of its checkpoint and table, and part of the id of every command. It never changes.
    const NAME: &'static str;
    /// The version of the stored state.
    const VERSION: u32 = 1;
    /// Where it begins when it runs for the first time. None: the program that starts it must say.
    const FROM: Option<Start> = None;
    /// How it answers: `Reacting<Self>` by [`React`], `Stepping<Self>` by [`Steps`](crate::Steps).
    type Process: Process + Default;
    /// Which instances an event concerns.
    const KEYS: Instances<EventOf<Self>> = Instances::Correlation;

    /// Whether an instance in this state is over: it hears nothing more, and has no timers.
    fn is_over(&self) -> bool {
        false
    }

    /// The state as JSON.
    fn encode(&self) -> Result<Vec<u8>, EventError>;

    /// Reads a stored state of any version up to [`VERSION`](Self::VERSION).
    fn decode(version: u32, state: &[u8]) -> Result<Self, EventError>;
}

/// The events that a saga hears.
pub type EventOf<S> = <<S as Saga>::Process as Process>::Event;

/// Where a process begins that runs for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first event of the log.
    Beginning,
    /// At the end of the log.
    Now,
    /// Behind a position.
    After(Position),
}

/// Which instances of a process an event concerns.
pub enum Instances<E: 'static> {
    /// The one of its conversation: the commands of a process carry the conversation on.
    Correlation,
    /// The one with the key of its stream.
    Stream,
    /// One for each tag of this name: `#[saga(tag = "order")]`.
    Tag(&'static str),
    /// The one a function names, if it names one: `#[saga(key = order_of)]`.
    By(fn(&Recorded<E>) -> Option<String>),
}

impl<E: Event> Instances<E> {
    pub(super) fn keys(&self, event: &Recorded<E>) -> Vec<String> {
        match self {
            Self::Tag(name) => tagged(name, event.data.tags()),
            Self::By(function) => function(event).into_iter().collect(),
            Self::Correlation => vec![event.metadata.correlation_id.to_string()],
            Self::Stream => vec![event.stream.key().to_owned()],
        }
    }

    /// The same for an event that cannot be read.
    pub(super) fn keys_unread(&self, event: &Recorded<Raw>) -> Option<Vec<String>> {
        Some(match self {
            Self::Tag(name) => tagged(name, event.data.tags.clone()),
            Self::By(_) => return None,
            Self::Correlation => vec![event.metadata.correlation_id.to_string()],
            Self::Stream => vec![event.stream.key().to_owned()],
        })
    }
}

fn tagged(name: &str, tags: Vec<crate::event::Tag>) -> Vec<String> {
    let mut keys: Vec<String> = vec![];
    for tag in tags.into_iter().filter(|tag| tag.name == name) {
        if !keys.contains(&tag.key) {
            keys.push(tag.key);
        }
    }
    keys
}

/// What an instance of a saga is before its first event.
#[diagnostic::on_unimplemented(
    message = "an instance of `{Self}` cannot begin, since `{Self}` has no default",
    label = "no `Default`",
    note = "derive `Default` for it; the default variant of an enum is marked `#[default]`"
)]
pub trait Beginning {
    /// The state before the first event.
    fn beginning() -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: Default> Beginning for T {
    fn beginning() -> Self {
        T::default()
    }
}

/// How a saga answers that implements [`React`].
pub struct Reacting<S>(PhantomData<fn() -> S>);

impl<S> Default for Reacting<S> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<S: Saga<Process = Self> + React + Beginning> Process for Reacting<S> {
    type Event = S::Event;
    type State = S;

    fn name(&self) -> &'static str {
        S::NAME
    }

    fn keys(&self, event: &Recorded<S::Event>) -> Vec<String> {
        S::KEYS.keys(event)
    }

    fn keys_unread(&self, event: &Recorded<Raw>) -> Option<Vec<String>> {
        S::KEYS.keys_unread(event)
    }

    fn begins_again(&self) -> bool {
        !matches!(S::KEYS, Instances::Correlation)
    }

    fn blank(&self) -> S {
        S::beginning()
    }

    fn open(&self, row: &StoredInstance) -> Result<S, EventError> {
        S::decode(row.version, row.state.as_bytes())
    }

    fn save(&self, state: &S, row: &mut StoredInstance) -> Result<(), EventError> {
        (row.state, row.version) = (text(state)?, S::VERSION);
        Ok(())
    }

    fn status(&self, state: &S) -> SagaStatus {
        if state.is_over() { SagaStatus::Finished } else { SagaStatus::Running }
    }

    fn answer(&self, state: &S, event: &Recorded<S::Event>, _: u32, _: Timestamp) -> Result<Script, Invalid> {
        Ok(Script::commands(state.react(event)))
    }

    fn evolve(&self, mut state: S, event: &Recorded<S::Event>, _: &Outcome) -> S {
        state.evolve(event.data.clone());
        state
    }

    fn fire(
        &self,
        _: &S,
        timer: &Timer,
        event: Option<&Recorded<S::Event>>,
        _: Timestamp,
    ) -> Result<Option<Script>, Unanswerable> {
        let event = event.ok_or(Unanswerable::Event)?;
        let before = match &timer.state {
            Some((version, state)) => S::decode(*version, state.as_bytes()).map_err(Unanswerable::State)?,
            None => S::beginning(),
        };
        Ok(Script::due(before.react(event), &timer.place))
    }

    fn fired(&self, state: S, _: &Outcome) -> S {
        state
    }
}

/// A state as JSON text.
pub(super) fn text<S: Saga>(state: &S) -> Result<String, EventError> {
    String::from_utf8(state.encode()?).map_err(|error| EventError::OneWay(error.to_string()))
}
