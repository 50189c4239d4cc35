//! The plan of a saga with steps: what is done, what undoes it, and up to where.

use std::{sync::Arc, time::Duration};

use crate::{event::Event, invalid::Invalid, process::commands::Commands};

/// How a saga with steps has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All steps are done.
    Done,
    /// A step has failed, and all that was done is undone.
    Undone {
        /// The step that failed.
        step: String,
        /// Why: the words of the refusal, or of what else went wrong.
        reason: String,
    },
}

/// The steps of a saga, in their order.
///
/// [`undo`](Self::undo), [`done`](Self::done), [`failed`](Self::failed) and [`within`](Self::within) are about the step
/// that was said last.
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

/// A step for [`Plan::all`]: a name of a-z, 0-9 and `_`, and what is sent.
pub fn step<E: Event>(name: &'static str, send: Commands) -> PlanStep<E> {
    PlanStep { name, send, undo: Commands::none(), done: None, failed: None, within: None }
}

impl<E: Event> PlanStep<E> {
    /// What undoes it. It must get along with there being nothing to undo: where it is not known what became of a step, it
    /// is undone as well.
    pub fn undo(mut self, undo: Commands) -> Self {
        self.undo = undo;
        self
    }

    /// The event that says it is done. Without this, it is done when its commands are accepted.
    pub fn done(mut self, done: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.done = Some(Arc::new(done));
        self
    }

    /// The event that says it has failed: `true`, or the reason in words.
    pub fn failed<R: FailureReason>(mut self, failed: impl Fn(&E) -> R + Send + Sync + 'static) -> Self {
        self.failed = Some(Arc::new(move |event| failed(event).reason(event.name())));
        self
    }

    /// How long its event is waited for. Then it has failed, and it is not known what became of it.
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

/// What says that a step has failed: `true`, or why.
pub trait FailureReason {
    /// The reason, if it has; `event` is the stored name of the event.
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
    /// No steps yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next step: a name of a-z, 0-9 and `_`, and what is sent. The name is stored, and part of ids.
    pub fn step(mut self, name: &'static str, send: Commands) -> Self {
        self.group += 1;
        self.steps.push((step(name, send), self.group, self.pivoted));
        self
    }

    /// The next steps, side by side: done when all are. The first that fails keeps those from beginning that have not
    /// begun; the others are waited for.
    pub fn all(mut self, steps: impl IntoIterator<Item = PlanStep<E>>) -> Self {
        self.group += 1;
        self.steps.extend(steps.into_iter().map(|step| (step, self.group, self.pivoted)));
        self
    }

    /// From here on there is only forward: the steps that follow are tried again where they are refused, eight times with
    /// growing pauses, and never undone.
    pub fn pivot(mut self) -> Self {
        self.pivoted = true;
        self
    }

    /// How long the steps up to the pivot may take together.
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = Some(time);
        self
    }

    /// What undoes the last step: see [`PlanStep::undo`].
    pub fn undo(self, undo: Commands) -> Self {
        self.last(|step| step.undo(undo))
    }

    /// The event that says the last step is done: see [`PlanStep::done`].
    pub fn done(self, done: impl Fn(&E) -> bool + Send + Sync + 'static) -> Self {
        self.last(|step| step.done(done))
    }

    /// The event that says the last step has failed: see [`PlanStep::failed`].
    pub fn failed<R: FailureReason>(self, failed: impl Fn(&E) -> R + Send + Sync + 'static) -> Self {
        self.last(|step| step.failed(failed))
    }

    /// How long the event of the last step is waited for: see [`PlanStep::within`].
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

    /// Refuses a plan with a mistake in it.
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
