//! What the engine asks of a process, whatever kind it is.

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

/// What the engine asks of a process: a saga, a saga with steps, a reactor. Never implemented by hand.
///
/// Everything is pure: no clock, no input, no output.
pub trait Process: Send + Sync + 'static {
    /// What it hears.
    type Event: Event;
    /// What an instance is.
    type State: Clone + Send + Sync + 'static;

    /// The name: part of every id it makes.
    fn name(&self) -> &'static str;

    /// The instances that an event concerns.
    fn keys(&self, event: &Recorded<Self::Event>) -> Vec<String>;

    /// The instances that an event concerns which cannot be read; none if only the event itself can tell.
    fn keys_unread(&self, event: &Recorded<Raw>) -> Option<Vec<String>>;

    /// Whether an instance that is over and forgotten could begin again, because another event has its key.
    fn begins_again(&self) -> bool;

    /// The state of an instance that has heard nothing.
    fn blank(&self) -> Self::State;

    /// Reads a state back, whatever version it was written in.
    fn open(&self, row: &StoredInstance) -> Result<Self::State, EventError>;

    /// Writes a state: `state`, `version` and `plan` of the row.
    fn save(&self, state: &Self::State, row: &mut StoredInstance) -> Result<(), EventError>;

    /// How an instance with this state stands.
    fn status(&self, state: &Self::State) -> SagaStatus;

    /// Why it waits, if it is parked by its own rules.
    fn parked(&self, _state: &Self::State) -> Option<String> {
        None
    }

    /// What is said to an event in a state. `now`: the store's clock, for what is tried again.
    fn answer(
        &self,
        state: &Self::State,
        event: &Recorded<Self::Event>,
        part: u32,
        now: Timestamp,
    ) -> Result<Script, Invalid>;

    /// The state after an event that was answered.
    fn evolve(&self, state: Self::State, event: &Recorded<Self::Event>, outcome: &Outcome) -> Self::State;

    /// What is said when a timer is due; none if the code says nothing there any more. `event`: the one that armed it, if it
    /// can be read.
    fn fire(
        &self,
        state: &Self::State,
        timer: &Timer,
        event: Option<&Recorded<Self::Event>>,
        now: Timestamp,
    ) -> Result<Option<Script>, Unanswerable>;

    /// Whether what a timer says decides how the instance goes on, so that no event may come before it once it has fired;
    /// and its conversation, for then it is answered without its event.
    fn decides(&self, _state: &Self::State, _timer: &Timer) -> Option<Uuid> {
        None
    }

    /// The state after a timer was answered.
    fn fired(&self, state: Self::State, outcome: &Outcome) -> Self::State;

    /// What is said when an operator wants an instance to go on that its own rules have parked; none if they have not.
    fn retry(&self, _state: &Self::State, _now: Timestamp) -> Result<Option<Script>, Invalid> {
        Ok(None)
    }

    /// The state before an event as a timer keeps it, given the row of it; none where that is blank.
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
    /// What it says is over a limit, or its plan has a mistake.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}
