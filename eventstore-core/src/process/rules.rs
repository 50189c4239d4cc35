//! The functions of a process that the engine calls, for all kinds of processes.

use uuid::Uuid;

use crate::{
    error::EventError,
    event::{Event, Raw, Recorded},
    invalid::Invalid,
    process::{
        instance::{StoredInstance, Timer},
        outcome::Outcome,
        progress::SagaStatus,
        script::Script,
    },
    timestamp::Timestamp,
};

/// A process: a saga, a saga with steps, or a reactor. The engine calls its functions. Never implemented by hand.
///
/// All functions are pure: no clock, no input, no output.
pub trait Process: Send + Sync + 'static {
    /// The events it reads.
    type Event: Event;
    /// The state of an instance.
    type State: Clone + Send + Sync + 'static;

    /// Returns the name, which is a part of every id the process makes.
    fn name(&self) -> &'static str;

    /// Returns the keys of the instances that an event concerns.
    fn keys(&self, event: &Recorded<Self::Event>) -> Vec<String>;

    /// Returns the keys of the instances that an event concerns which cannot be decoded; `None` if only the decoded
    /// event has them.
    fn keys_unread(&self, event: &Recorded<Raw>) -> Option<Vec<String>>;

    /// Whether an instance that has no row may have been over and deleted, given the event it would begin with: the
    /// turn then looks that up.
    fn may_be_over(&self, event: &Recorded<Self::Event>) -> bool;

    /// Returns the state of an instance that has had no event.
    fn blank(&self) -> Self::State;

    /// Reads a state of any version. Fails with [`EventError`] if the state cannot be read.
    fn open(&self, row: &StoredInstance) -> Result<Self::State, EventError>;

    /// Writes a state: `state`, `version` and `plan` of the row. Fails with [`EventError`] if the state cannot be
    /// written.
    fn save(&self, state: &Self::State, row: &mut StoredInstance) -> Result<(), EventError>;

    /// Returns the status of an instance with this state.
    fn status(&self, state: &Self::State) -> SagaStatus;

    /// Returns why an instance waits, if its own rules have parked it.
    fn parked(&self, _state: &Self::State) -> Option<String> {
        None
    }

    /// Returns the answer to an event in a state. `now` is by the store's clock, for steps that are tried again. Fails
    /// with [`Invalid`] if the plan has a mistake.
    fn answer(
        &self,
        state: &Self::State,
        event: &Recorded<Self::Event>,
        part: u32,
        now: Timestamp,
    ) -> Result<Script, Invalid>;

    /// Returns the state after an event that was answered.
    fn evolve(&self, state: Self::State, event: &Recorded<Self::Event>, outcome: &Outcome) -> Self::State;

    /// Returns the answer when a timer is due; `None` if the code has no timer at that place any more. `event` is the
    /// event that armed the timer, if it can be decoded. Fails with [`Unanswerable`].
    fn fire(
        &self,
        state: &Self::State,
        timer: &Timer,
        event: Option<&Recorded<Self::Event>>,
        now: Timestamp,
    ) -> Result<Option<Script>, Unanswerable>;

    /// Returns the conversation of the instance if the timer decides how the instance goes on: then no event is
    /// answered before it once it has fired, and it is answered without the event that armed it.
    fn decides(&self, _state: &Self::State, _timer: &Timer) -> Option<Uuid> {
        None
    }

    /// Returns the state after a timer was answered.
    fn fired(&self, state: Self::State, outcome: &Outcome) -> Self::State;

    /// Returns the answer when an operator retries an instance; `None` if the process has none. Fails with [`Invalid`]
    /// if the plan has a mistake.
    fn retry(&self, _state: &Self::State, _now: Timestamp) -> Result<Option<Script>, Invalid> {
        Ok(None)
    }

    /// Returns the state before an event, as a timer keeps it, given the row before the event; `None` if the state is
    /// blank.
    fn before(&self, row: &StoredInstance, blank: &str) -> Option<(u32, String)> {
        (row.state != blank && !row.state.is_empty()).then(|| (row.version, row.state.clone()))
    }
}

/// Why an event or a timer cannot be answered by this program.
#[derive(Debug, thiserror::Error)]
pub enum Unanswerable {
    /// A state cannot be read.
    #[error("the state of the instance cannot be read: {0}")]
    State(#[source] EventError),
    /// The event that armed a timer cannot be read.
    #[error("the event that armed the timer cannot be read")]
    Event,
    /// The answer is over a limit, or the plan has a mistake.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}
