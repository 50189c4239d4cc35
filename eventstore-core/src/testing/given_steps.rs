//! `OrderFulfilment::given(placed).fails_at("shipping", "no van").then_undone(["payment", "stock"])`: tests the steps
//! of a saga without a store.

use std::collections::HashMap;

use uuid::Uuid;

use super::{compare, decoded};
use crate::{
    event::Recorded,
    metadata::Metadata,
    process::{
        Answering, Commands, End, InFlight, Outcome, Process, Progress, Saga, SagaStatus, Script, StepProgress,
        StepStatus, Stepping, Steps, Stimulus, Todo, Told, Trigger,
    },
    stream::{Position, StreamId},
    timestamp::Timestamp,
};

/// Tests a saga with steps, some of which fail.
///
/// Unless a test says otherwise, every command is accepted, and every step that waits for an event is done.
pub trait GivenSteps: Saga<Process = Stepping<Self>> + Steps {
    /// Gives the event that begins the saga.
    #[track_caller]
    fn given(event: impl Into<<Self as Steps>::Event>) -> GivenPlan<Self> {
        GivenPlan { events: vec![event.into()], fates: HashMap::new(), undos: HashMap::new() }
    }
}

impl<S: Saga<Process = Stepping<S>> + Steps> GivenSteps for S where Stepping<S>: Process {}

/// A plan that has begun, and the failures to come.
#[must_use = "nothing is looked at until `then_…`"]
pub struct GivenPlan<S: Steps> {
    events: Vec<S::Event>,
    fates: HashMap<&'static str, Fate>,
    undos: HashMap<&'static str, String>,
}

enum Fate {
    Fails(String),
    IsLate,
}

/// The end of the plan.
struct Ended<S> {
    data: S,
    progress: Progress,
}

impl<S: Saga<Process = Stepping<S>> + Steps> GivenPlan<S>
where
    Stepping<S>: Process<Event = S::Event, State = Option<InFlight<S>>> + Default,
{
    /// Adds another event. Events come one after the other, before any step that waits is answered.
    pub fn hears(mut self, event: impl Into<S::Event>) -> Self {
        self.events.push(event.into());
        self
    }

    /// Lets a step fail: by a refused command, or by its event if it waits for one.
    pub fn fails_at(mut self, step: &'static str, reason: &str) -> Self {
        self.fates.insert(step, Fate::Fails(reason.into()));
        self
    }

    /// Lets the event of a step not come in time.
    pub fn times_out_at(mut self, step: &'static str) -> Self {
        self.fates.insert(step, Fate::IsLate);
        self
    }

    /// Refuses the commands that undo a step.
    pub fn refuses_to_undo(mut self, step: &'static str, reason: &str) -> Self {
        self.undos.insert(step, reason.into());
        self
    }

    /// Expects all steps to be done.
    #[track_caller]
    pub fn then_done(self) {
        let ended = self.run();
        compare(&(SagaStatus::Finished, None), &(ended.progress.status(), ended.reason()));
    }

    /// Expects these steps to be undone, in this order, and the saga to be over.
    #[track_caller]
    pub fn then_undone(self, steps: impl IntoIterator<Item = &'static str>) {
        let ended = self.run();
        let expected: Vec<_> = steps.into_iter().collect();
        compare(&(SagaStatus::Compensated, expected), &(ended.progress.status(), ended.undone()));
    }

    /// Expects the saga to wait for an operator or for other code, for this reason.
    #[track_caller]
    pub fn then_parked(self, reason: &str) {
        let ended = self.run();
        compare(
            &(SagaStatus::Parked, Some(reason.to_owned())),
            &(ended.progress.status(), ended.progress.waits.clone()),
        );
    }

    /// Expects the saga to be over, and to send these commands in the end.
    #[track_caller]
    pub fn then_ended(self, expected: Commands) {
        let ended = self.run();
        let end = match (&ended.progress.failed, ended.progress.over) {
            (_, false) => panic!("it is not over: {:?}, {:?}", ended.progress.status(), ended.reason()),
            (None, true) => End::Done,
            (Some((step, reason)), true) => End::Undone { step: step.clone(), reason: reason.clone() },
        };
        compare(&expected, &ended.data.ended(&end));
    }

    #[track_caller]
    fn run(mut self) -> Ended<S> {
        let process = Stepping::<S>::default();
        let mut events = std::mem::take(&mut self.events).into_iter();
        let first = events.next().map(|event| recorded_at(1, &event)).expect("`given` has said one");
        let mut state = None;
        let mut position = 1;
        let mut script = sound(process.answer(&state, &first, 0, Timestamp::default()));
        let mut event = Some(first.clone());
        loop {
            let trigger = Trigger { event: first.with(()), part: 0, due: None };
            let outcome = self.answer(trigger, script);
            state = match event.take() {
                Some(event) => process.evolve(state, &event, &outcome),
                None => process.fired(state, &outcome),
            };
            let Some(InFlight { data, progress }) = state.clone() else { panic!("the event begins no instance") };
            if progress.over || progress.waits.is_some() {
                return Ended { data, progress };
            }
            script = if let Some(next) = events.next() {
                position += 1;
                let next = recorded_at(position, &next);
                let script = sound(process.answer(&state, &next, 0, Timestamp::default()));
                event = Some(next);
                script
            } else {
                let Some(stimulus) = self.stimulus(&progress) else {
                    return Ended { data, progress };
                };
                sound(Stepping::script(data, Some(progress.clone()), &stimulus, Timestamp::default()))
            };
        }
    }

    /// Returns the stimulus for the next step that waits; `None` if no step waits.
    fn stimulus<'a>(&self, progress: &'a Progress) -> Option<Stimulus<'a, S::Event>> {
        let waits = |step: &&StepProgress| matches!(step.status, StepStatus::Sent | StepStatus::Retrying);
        let step = progress.steps.iter().find(waits)?;
        Some(match (step.status, self.fates.get(&*step.name)) {
            (StepStatus::Retrying, _) => Stimulus::Again(&step.name),
            (_, Some(Fate::IsLate)) => Stimulus::StepLate(&step.name),
            (_, Some(Fate::Fails(reason))) => Stimulus::Said(&step.name, Some(reason.clone())),
            (_, None) => Stimulus::Said(&step.name, None),
        })
    }

    #[track_caller]
    fn answer(&self, trigger: Trigger, script: Script) -> Outcome {
        let mut answering = sound(Answering::new(S::NAME, "given".into(), trigger, script.clone()));
        while let Some(todo) = answering.todo() {
            let told = match &todo {
                Todo::Send(_, delivery) => {
                    let step = delivery.step.as_deref().unwrap_or_default();
                    let forward = delivery.place.starts_with("step:");
                    match (self.undos.get(step), self.fates.get(step)) {
                        (Some(reason), _) if delivery.place.starts_with("undo:") => Told::Refused(reason.clone()),
                        (_, Some(Fate::Fails(reason))) if forward && !script.waits(step) => {
                            Told::Refused(reason.clone())
                        }
                        _ => Told::Recorded,
                    }
                }
                Todo::Mark(..) => Told::Recorded,
                Todo::LookUp(_) => Told::Over(false),
            };
            answering.told(told);
        }
        answering.outcome().expect("all of it is answered")
    }
}

fn recorded_at<E: crate::event::Event>(position: u64, event: &E) -> Recorded<E> {
    let metadata = Metadata { correlation_id: Uuid::from_u128(1), ..Metadata::default() };
    let stream = StreamId::new("given", "1");
    decoded(stream, Position(position), Timestamp::default(), metadata, event)
}

#[track_caller]
fn sound<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("it cannot be answered: {error}"))
}

impl<S: Steps> Ended<S> {
    /// Returns the steps that were undone, in that order, without the steps that have nothing to undo.
    fn undone(&self) -> Vec<&'static str> {
        let plan = self.data.steps();
        let undone = self.progress.steps.iter().filter(|step| step.status == StepStatus::Undone);
        let mut undone: Vec<_> = undone.filter_map(|step| Some((step.order, plan.get(&step.name)?))).collect();
        undone.sort_by_key(|(order, _)| std::cmp::Reverse(*order));
        undone.iter().filter(|(_, step)| step.undo != Commands::none()).map(|(_, step)| step.name).collect()
    }

    fn reason(&self) -> Option<String> {
        self.progress
            .waits
            .clone()
            .or_else(|| self.progress.failed.as_ref().map(|(step, why)| format!("{step}: {why}")))
    }
}
