//! Sagas with declared steps: each has an action and its compensation.

use std::{marker::PhantomData, sync::Arc};

use uuid::Uuid;

use crate::{
    error::EventError,
    event::{Event, Raw, Recorded},
    invalid::Invalid,
    process::{
        commands::Commands,
        instance::{StoredInstance, Timer},
        outcome::Outcome,
        plan::{End, Plan},
        plan_script::{PlanScript, Stimulus},
        progress::{Progress, SagaStatus},
        rules::{Process, Unanswerable},
        saga::{Saga, text},
        script::Script,
    },
    timestamp::Timestamp,
};

/// A saga whose steps are declared: derive [`Saga`] with `#[saga(steps)]`.
///
/// The steps run one after the other. If a step before the [pivot](Plan::pivot) fails, the steps that are done are
/// undone, the last first. After the pivot nothing is undone: a refused step is tried again.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not declare its steps",
    label = "no `impl Steps for {Self}`",
    note = "without `steps` in `#[saga(…)]` a saga implements `React` instead"
)]
pub trait Steps: Send + Sync + Sized + 'static {
    /// The events of the saga.
    type Event: Event;

    /// Returns the data of a new instance; `None` if the event does not begin one.
    fn begin(event: &Recorded<Self::Event>) -> Option<Self>;

    /// Applies a later event to the data, before any step checks the event.
    fn hear(&mut self, _event: &Self::Event) {}

    /// Returns the plan, given the data. An instance follows the names, the order and the pivot of the plan it began
    /// with, and sends the commands of the current plan.
    fn steps(&self) -> Plan<Self::Event>;

    /// Returns the commands that are sent once the instance is over. Timers in them are not armed.
    fn ended(&self, end: &End) -> Commands;
}

/// The state of an instance of a saga with steps: its data, and the progress of its plan.
#[derive(Clone)]
pub struct InFlight<S> {
    /// The data of the instance.
    pub data: S,
    /// The progress of its plan.
    pub progress: Progress,
}

/// The process of a saga that implements [`Steps`].
pub struct Stepping<S>(PhantomData<fn() -> S>);

impl<S> Default for Stepping<S> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<S: Steps + Clone> Stepping<S> {
    /// Returns the data after an event; `None` if there is no instance and the event does not begin one.
    fn data_after(state: &Option<InFlight<S>>, event: &Recorded<S::Event>) -> Option<S> {
        match state {
            None => S::begin(event),
            Some(InFlight { data, .. }) => {
                let mut data = data.clone();
                data.hear(&event.data);
                Some(data)
            }
        }
    }

    pub(crate) fn script(
        data: S,
        progress: Option<Progress>,
        stimulus: &Stimulus<'_, S::Event>,
        now: Timestamp,
    ) -> Result<Script, Invalid> {
        let plan = data.steps();
        plan.check()?;
        let ended = move |end: &End| data.ended(end);
        Ok(Script::plan(PlanScript::new(&plan, progress, stimulus, now, Arc::new(ended))))
    }
}

impl<S: Saga<Process = Self> + Steps> Process for Stepping<S> {
    type Event = S::Event;
    type State = Option<InFlight<S>>;

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

    fn blank(&self) -> Option<InFlight<S>> {
        None
    }

    fn open(&self, row: &StoredInstance) -> Result<Option<InFlight<S>>, EventError> {
        let Some(progress) = row.plan.clone() else { return Ok(None) };
        Ok(Some(InFlight { data: S::decode(row.version, row.state.as_bytes())?, progress }))
    }

    fn save(&self, state: &Option<InFlight<S>>, row: &mut StoredInstance) -> Result<(), EventError> {
        row.version = S::VERSION;
        (row.state, row.plan) = match state {
            Some(InFlight { data, progress }) => (text(data)?, Some(progress.clone())),
            None => ("null".into(), None),
        };
        Ok(())
    }

    fn status(&self, state: &Option<InFlight<S>>) -> SagaStatus {
        state.as_ref().map_or(SagaStatus::Running, |state| state.progress.status())
    }

    fn parked(&self, state: &Option<InFlight<S>>) -> Option<String> {
        state.as_ref()?.progress.waits.clone()
    }

    fn answer(
        &self,
        state: &Option<InFlight<S>>,
        event: &Recorded<S::Event>,
        part: u32,
        now: Timestamp,
    ) -> Result<Script, Invalid> {
        let Some(data) = Self::data_after(state, event) else { return Ok(Script::commands(Commands::none())) };
        let progress = state.as_ref().map(|state| state.progress.clone());
        Self::script(data, progress, &Stimulus::Event(event, part), now)
    }

    fn evolve(&self, state: Option<InFlight<S>>, event: &Recorded<S::Event>, outcome: &Outcome) -> Option<InFlight<S>> {
        let data = Self::data_after(&state, event)?;
        let progress = outcome.plan.clone().or(state.map(|state| state.progress))?;
        Some(InFlight { data, progress })
    }

    fn fire(
        &self,
        state: &Option<InFlight<S>>,
        timer: &Timer,
        event: Option<&Recorded<S::Event>>,
        now: Timestamp,
    ) -> Result<Option<Script>, Unanswerable> {
        let Some(InFlight { data, progress }) = state else { return Ok(None) };
        if let Some(stimulus) = Stimulus::of(&timer.place) {
            return Ok(Some(Self::script(data.clone(), Some(progress.clone()), &stimulus, now)?));
        }
        // A timer among the commands of a step uses the plan as it was when the timer was armed.
        let event = event.ok_or(Unanswerable::Event)?;
        let before = match &timer.state {
            None => None,
            Some((version, state)) => {
                let data = S::decode(*version, state.as_bytes()).map_err(Unanswerable::State)?;
                Some(InFlight { data, progress: progress.clone() })
            }
        };
        let Some(data) = Self::data_after(&before, event) else { return Ok(None) };
        Ok(Script::due_in_plan(&data.steps(), &timer.place))
    }

    fn decides(&self, state: &Option<InFlight<S>>, timer: &Timer) -> Option<Uuid> {
        Stimulus::<S::Event>::of(&timer.place)?;
        state.as_ref().map(|state| state.progress.correlation)
    }

    fn fired(&self, state: Option<InFlight<S>>, outcome: &Outcome) -> Option<InFlight<S>> {
        let InFlight { data, progress } = state?;
        Some(InFlight { data, progress: outcome.plan.clone().unwrap_or(progress) })
    }

    fn retry(&self, state: &Option<InFlight<S>>, now: Timestamp) -> Result<Option<Script>, Invalid> {
        let Some(InFlight { data, progress }) = state else { return Ok(None) };
        Self::script(data.clone(), Some(progress.clone()), &Stimulus::Retry, now).map(Some)
    }
}
