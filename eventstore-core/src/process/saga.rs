//! Sagas: processes with a state folded from events, which answer each event with commands.

use std::marker::PhantomData;

use crate::{
    aggregate::Evolve,
    error::EventError,
    event::{Event, Raw, Recorded},
    invalid::Invalid,
    metadata::Metadata,
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

/// The answers of a saga to its events.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what it answers its events with",
    label = "no `impl React for {Self}`",
    note = "a saga with declared steps implements `Steps`, and says so: `#[saga(steps)]`"
)]
pub trait React: Evolve {
    /// Returns the answer to an event; `self` is the state before the event.
    ///
    /// Pure: called again after a crash, or when a timer is due, it returns the same.
    fn react(&self, event: &Recorded<Self::Event>) -> Commands;
}

/// A process with a state: it reads events, folds a state and sends commands. Derive it.
///
/// With [`React`] it answers each event freely; with [`Steps`](crate::Steps) it declares steps, each with an action and
/// its compensation.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a saga",
    label = "not a saga",
    note = "add `#[derive(Saga)]` to `{Self}`"
)]
pub trait Saga: Clone + Send + Sync + 'static {
    /// The name of its checkpoint and table, and a part of the id of every command. It never changes.
    const NAME: &'static str;
    /// The version of the stored state.
    const VERSION: u32 = 1;
    /// Where the process begins when it runs for the first time. `None`: the program that starts it must give the
    /// start.
    const FROM: Option<StartFrom> = None;
    /// The process that answers its events: `Reacting<Self>` by [`React`], `Stepping<Self>` by [`Steps`](crate::Steps).
    type Process: Process + Default;
    /// The instances that an event concerns.
    const KEYS: Instances<EventOf<Self>> = Instances::Correlation;

    /// Whether an instance in this state is over: it reads no more events, and has no timers.
    fn is_over(&self) -> bool {
        false
    }

    /// Returns the state as JSON. Fails with [`EventError`] if it cannot be written.
    fn encode(&self) -> Result<Vec<u8>, EventError>;

    /// Reads a stored state of any version up to [`VERSION`](Self::VERSION). Fails with [`EventError`] if the state
    /// cannot be read.
    fn decode(version: u32, state: &[u8]) -> Result<Self, EventError>;
}

/// The events that a saga reads.
pub type EventOf<S> = <<S as Saga>::Process as Process>::Event;

/// Where a saga, reactor, subscription or projection in SQL begins when it runs for the first time. Ignored once there is
/// a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// With the first event of the log.
    Beginning,
    /// With the first event recorded from then on.
    Now,
    /// With the first event after a position.
    After(Position),
}

/// The instances of a process that an event concerns.
pub enum Instances<E: 'static> {
    /// The instance of its conversation (correlation id), which the commands of a process continue.
    Correlation,
    /// The instance with the key of its stream.
    Stream,
    /// One instance for each tag of this name: `#[saga(tag = "order")]`.
    Tag(&'static str),
    /// The instance whose key a function returns, if it returns one: `#[saga(key = order_of)]`.
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

    /// Whether earlier events may concern the same instance. A conversation begins with the command whose id it has.
    pub(super) fn may_be_over(&self, event: &Recorded<E>) -> bool {
        let Metadata { correlation_id, command_id, .. } = &event.metadata;
        !matches!(self, Self::Correlation) || correlation_id != command_id
    }

    /// As [`keys`](Self::keys), for an event that cannot be decoded; `None` if a function returns the key, or if what has
    /// the key is damaged.
    pub(super) fn keys_unread(&self, event: &Recorded<Raw>) -> Option<Vec<String>> {
        Some(match self {
            Self::By(_) => return None,
            Self::Stream if !event.stream.is_whole() => return None,
            Self::Tag(_) | Self::Correlation if event.is_damaged() => return None,
            Self::Tag(name) => tagged(name, event.data.tags.clone()),
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

/// The state of an instance of a saga before its first event.
#[diagnostic::on_unimplemented(
    message = "an instance of `{Self}` cannot begin, since `{Self}` has no default",
    label = "no `Default`",
    note = "derive `Default` for it; the default variant of an enum is marked `#[default]`"
)]
pub trait Beginning {
    /// Returns the state before the first event.
    fn beginning() -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: Default> Beginning for T {
    fn beginning() -> Self {
        T::default()
    }
}

/// The process of a saga that implements [`React`].
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

    fn may_be_over(&self, event: &Recorded<S::Event>) -> bool {
        S::KEYS.may_be_over(event)
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

/// Returns a state as JSON text. Fails with [`EventError`] if it cannot be written.
pub(super) fn text<S: Saga>(state: &S) -> Result<String, EventError> {
    String::from_utf8(state.encode()?).map_err(|error| EventError::OneWay(error.to_string()))
}
