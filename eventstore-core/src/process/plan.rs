//! The plan of a saga with steps: the commands of each step, the commands that undo it, and the pivot.

use std::{sync::Arc, time::Duration};

use crate::{event::Event, invalid::Invalid, process::commands::Commands};

/// The end of a saga with steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Done,
    /// A step has failed, and all steps that were done are undone.
    Undone {
        /// The step that failed.
        step: String,
        /// Why: the words of the refusal or of another failure.
        reason: String,
    },
}

/// The steps of a saga, in their order.
///
/// [`undo`](Self::undo), [`done`](Self::done), [`failed`](Self::failed) and [`within`](Self::within) apply to the last
/// step added.
#[must_use = "a plan does nothing until it is returned"]
pub struct Plan<E> {
    pub(super) steps: Vec<(PlanStep<E>, u32, bool)>,
    pub(super) deadline: Option<Duration>,
    pivoted: bool,
    group: u32,
    mistake: Option<&'static str>,
}

type Matches<E> = Arc<dyn Fn(&E) -> bool + Send + Sync>;
type Reasons<E> = Arc<dyn Fn(&E) -> Option<String> + Send + Sync>;

/// One step of a [`Plan`].
#[must_use = "a step is taken only in a plan"]
pub struct PlanStep<E> {
    pub(crate) name: &'static str,
    pub(super) send: Commands,
    pub(crate) undo: Commands,
    pub(super) done: Option<Matches<E>>,
    pub(super) failed: Option<Reasons<E>>,
    pub(super) within: Option<Duration>,
}

/// Returns a step for [`Plan::all`]: a name of 1 to 48 of a-z, 0-9 and `_`, and the commands it sends.
pub fn step<E: Event>(name: &'static str, send: Commands) -> PlanStep<E> {
    PlanStep { name, send, undo: Commands::none(), done: None, failed: None, within: None }
}

impl<E: Event> PlanStep<E> {
    /// The commands that undo it. They must also work if there is nothing to undo: a step whose result is unknown is
    /// undone too.
    pub fn undo(mut self, undo: Commands) -> Self {
        self.undo = undo;
        self
    }

    /// The event by which the step is done. Without this, the step is done when its commands are accepted.
    pub fn done(mut self, done: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.done = Some(Arc::new(done));
        self
    }

    /// The event by which the step has failed: `true`, or the reason in words.
    pub fn failed<R: FailureReason>(mut self, failed: impl Fn(&E) -> R + Send + Sync + 'static) -> Self {
        self.failed = Some(Arc::new(move |event| failed(event).reason(event.name())));
        self
    }

    /// How long the step waits for its event. After that the step has failed, with an unknown result.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    fn mistake(&self, retriable: bool) -> Option<&'static str> {
        let plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        Some(match self {
            Self { name, .. } if name.is_empty() || name.len() > 48 || !name.bytes().all(plain) => {
                "has a name that is not 1 to 48 of a-z, 0-9 and `_`"
            }
            Self { done: None, within: Some(_), .. } => {
                "is done once it is accepted, so `within` says nothing: add `done`"
            }
            Self { done: None, failed: Some(_), .. } => {
                "is done once it is accepted, so `failed` says nothing: add `done`"
            }
            Self { undo, .. } if retriable && *undo != Commands::none() => {
                "comes behind the pivot, where nothing is undone: remove `undo`"
            }
            _ => return None,
        })
    }
}

/// The result of [`failed`](PlanStep::failed): `true`, or why the step has failed.
pub trait FailureReason {
    /// Returns the reason, if the step has failed; `event` is the stored name of the event.
    fn reason(self, event: &str) -> Option<String>;
}

impl FailureReason for bool {
    fn reason(self, event: &str) -> Option<String> {
        self.then(|| event.to_owned())
    }
}

impl FailureReason for Option<String> {
    fn reason(self, _: &str) -> Option<String> {
        self
    }
}

impl<E> Default for Plan<E> {
    fn default() -> Self {
        Self { steps: vec![], deadline: None, pivoted: false, group: 0, mistake: None }
    }
}

impl<E: Event> Plan<E> {
    /// Returns a plan without steps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next step: a name of 1 to 48 of a-z, 0-9 and `_`, and the commands it sends. The name is stored, and a
    /// part of ids.
    pub fn step(mut self, name: &'static str, send: Commands) -> Self {
        self.group += 1;
        self.steps.push((step(name, send), self.group, self.pivoted));
        self
    }

    /// Adds steps that run side by side; the plan goes on when all are done. Once a step fails, no further step of them
    /// begins; the plan waits for those that have begun.
    pub fn all(mut self, steps: impl IntoIterator<Item = PlanStep<E>>) -> Self {
        self.group += 1;
        self.steps.extend(steps.into_iter().map(|step| (step, self.group, self.pivoted)));
        self
    }

    /// From here on nothing is undone. A later step that is refused, or fails by its event, is tried again, eight times
    /// in all, with pauses from 1 to 64 seconds. A step that is late waits for an operator.
    pub fn pivot(mut self) -> Self {
        self.pivoted = true;
        self
    }

    /// How long the steps up to the pivot may take together.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = Some(time);
        self
    }

    /// The commands that undo the last step: see [`PlanStep::undo`].
    pub fn undo(self, undo: Commands) -> Self {
        self.last(|step| step.undo(undo))
    }

    /// The event by which the last step is done: see [`PlanStep::done`].
    pub fn done(self, done: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.last(|step| step.done(done))
    }

    /// The event by which the last step has failed: see [`PlanStep::failed`].
    pub fn failed<R: FailureReason>(self, failed: impl Fn(&E) -> R + Send + Sync + 'static) -> Self {
        self.last(|step| step.failed(failed))
    }

    /// How long the last step waits for its event: see [`PlanStep::within`].
    pub fn within(self, time: Duration) -> Self {
        self.last(|step| step.within(time))
    }

    fn last(mut self, change: impl FnOnce(PlanStep<E>) -> PlanStep<E>) -> Self {
        match self.steps.pop() {
            Some((step, group, pivoted)) => self.steps.push((change(step), group, pivoted)),
            None => self.mistake = Some("a plan says something about a step before there is one"),
        }
        self
    }

    /// Fails with [`Invalid::Request`] if the plan has a mistake.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if let Some(mistake) = self.mistake {
            return Err(Invalid::Request(mistake.into()));
        }
        if self.steps.is_empty() {
            return Err(Invalid::Request("a plan has no steps".into()));
        }
        for (n, (step, _, pivoted)) in self.steps.iter().enumerate() {
            let twice = self.steps[..n].iter().any(|(other, ..)| other.name == step.name);
            if let Some(mistake) = step.mistake(*pivoted).or(twice.then_some("is in the plan twice")) {
                return Err(Invalid::Request(format!("step `{}` {mistake}", step.name)));
            }
        }
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&PlanStep<E>> {
        self.steps.iter().map(|(step, ..)| step).find(|step| step.name == name)
    }
}
