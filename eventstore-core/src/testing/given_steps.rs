//! `OrderFulfilment::given(placed).fails_at("shipping", "no van").then_undone(["payment", "stock"])`: the steps of a saga,
//! without a store.

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

/// How far a saga with declared steps comes, if something goes wrong.
///
/// Unless a test says otherwise, every command is accepted and every step that waits for an event is told that it is done.
pub trait GivenSteps: Saga<Process = Stepping<Self>> + Steps {
    /// The event that begins it.
    #[track_caller]
    fn given(event: impl Into<<Self as Steps>::Event>) -> GivenPlan<Self> {
        GivenPlan { events: vec![event.into()], fates: HashMap::new(), undos: HashMap::new() }
    }
}

impl<S: Saga<Process = Stepping<S>> + Steps> GivenSteps for S where Stepping<S>: Process {}

/// A plan that was begun, and what is to go wrong with it.
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

/// How it ended.
struct Ended<S> {
    data: S,
    progress: Progress,
}

impl<S: Saga<Process = Stepping<S>> + Steps> GivenPlan<S>
where
    Stepping<S>: Process<Event = S::Event, State = Option<InFlight<S>>> + Default,
{
    /// It hears another event, once all steps before it are answered that wait for one.
    pub fn hears(mut self, event: impl Into<S::Event>) -> Self {
        self.events.push(event.into());
        self
    }

    /// A step fails: its command is refused, or, if it waits for an event, that says so.
    pub fn fails_at(mut self, step: &'static str, reason: &str) -> Self {
        self.fates.insert(step, Fate::Fails(reason.into()));
        self
    }

    /// The event of a step does not come in time.
    pub fn times_out_at(mut self, step: &'static str) -> Self {
        self.fates.insert(step, Fate::IsLate);
        self
    }

    /// What undoes a step is refused.
    pub fn refuses_to_undo(mut self, step: &'static str, reason: &str) -> Self {
        self.undos.insert(step, reason.into());
        self
    }

    /// All steps are done.
    #[track_caller]
    pub fn then_done(self) {
        let ended = self.run();
        compare(&(SagaStatus::Finished, None), &(ended.progress.status(), ended.reason()));
    }

    /// These steps are undone, in this order, and the saga is over.
    #[track_caller]
    pub fn then_undone(self, steps: impl IntoIterator<Item = &'static str>) {
        let ended = self.run();
        let expected: Vec<_> = steps.into_iter().collect();
        compare(&(SagaStatus::Compensated, expected), &(ended.progress.status(), ended.undone()));
    }

    /// It waits for an operator or for other code, for this reason.
    #[track_caller]
    pub fn then_parked(self, reason: &str) {
        let ended = self.run();
        compare(
            &(SagaStatus::Parked, Some(reason.to_owned())),
            &(ended.progress.status(), ended.progress.waits.clone()),
        );
    }

    /// It is over, and this is what is sent in the end.
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

    /// What becomes of a step that waits.
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
    /// The steps that were undone, in the order in which they were, but for those with nothing to undo.
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
