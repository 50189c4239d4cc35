//! How far the plan of an instance has come. Stored with it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{event::Event, process::plan::Plan};

/// How an instance of a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SagaStatus {
    /// It hears events.
    Running,
    /// A step has failed, and those before it are being undone.
    Compensating,
    /// It waits for an operator or for other code; `error` says why.
    Parked,
    /// It is over.
    Finished,
    /// It is over: a step has failed, and all that was done is undone.
    Compensated,
    /// An operator has ended it.
    Cancelled,
}

impl SagaStatus {
    /// Whether it is over: it hears nothing and no timer of it fires.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Compensated | Self::Cancelled)
    }
}

/// How far the plan of an instance has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Progress {
    /// The event that began it: the ids of all its commands are derived from it.
    pub event: Uuid,
    /// Which of the events it is that its upcast made of one stored event.
    #[serde(default)]
    pub part: u32,
    /// The conversation it belongs to.
    pub correlation: Uuid,
    /// The steps as they were when it began, in their order.
    pub steps: Vec<StepProgress>,
    /// The step that failed and why, if one has: what is done is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<(String, String)>,
    /// Whether it is over.
    #[serde(default)]
    pub over: bool,
    /// What it waits for, if that needs an operator or other code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

/// How far one step has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepProgress {
    /// The name of the step.
    pub name: String,
    /// Steps with the same number go side by side.
    pub group: u32,
    /// Whether it comes behind the pivot.
    #[serde(default)]
    pub retriable: bool,
    /// How it stands.
    pub status: StepStatus,
    /// The how-manieth it was to be done, or not to be known, from 1; 0 before.
    #[serde(default)]
    pub order: u32,
    /// How often it has failed behind the pivot.
    #[serde(default)]
    pub tries: u32,
    /// How often its commands have been accepted and it has failed nevertheless: the next ones have other ids.
    #[serde(default)]
    pub resent: u32,
    /// Why it stands so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepStatus {
    /// It has not begun.
    Waiting,
    /// Its commands are accepted, and its event is waited for.
    Sent,
    /// It is done.
    Done,
    /// It has failed, and nothing of it was done.
    Failed,
    /// It has failed, and something of it may be done.
    Unknown,
    /// It comes behind the pivot, has failed, and is tried again.
    Retrying,
    /// It comes behind the pivot, has failed, and is not tried again by itself.
    Parked,
    /// What undoes it was refused.
    Undoing,
    /// It is undone.
    Undone,
}

/// How often a step behind the pivot is tried.
pub(super) const TRIES: u32 = 8;

impl Progress {
    pub(super) fn new<E: Event>((event, correlation): (Uuid, Uuid), part: u32, plan: &Plan<E>) -> Self {
        let steps = plan.steps.iter().map(|(step, group, retriable)| StepProgress {
            name: step.name.into(),
            group: *group,
            retriable: *retriable,
            status: StepStatus::Waiting,
            order: 0,
            tries: 0,
            resent: 0,
            reason: None,
        });
        Self { event, part, correlation, steps: steps.collect(), failed: None, over: false, waits: None }
    }

    pub(crate) fn status(&self) -> SagaStatus {
        match self {
            Self { over: true, failed: None, .. } => SagaStatus::Finished,
            Self { over: true, .. } => SagaStatus::Compensated,
            Self { waits: Some(_), .. } => SagaStatus::Parked,
            Self { failed: Some(_), .. } => SagaStatus::Compensating,
            _ => SagaStatus::Running,
        }
    }

    /// Whether the steps up to the pivot are done.
    pub(super) fn pivoted(&self) -> bool {
        self.steps.iter().filter(|step| !step.retriable).all(|step| step.status == StepStatus::Done)
    }

    fn next_order(&self) -> u32 {
        self.steps.iter().map(|step| step.order).max().unwrap_or(0) + 1
    }

    /// A step is over, or as good as over.
    pub(super) fn resolve(&mut self, n: usize, status: StepStatus, reason: Option<String>) {
        let order = self.next_order();
        let step = &mut self.steps[n];
        (step.status, step.reason, step.order) = (status, reason, order);
    }

    /// A step before the pivot has failed: what is done is undone.
    pub(super) fn fail(&mut self, n: usize, status: StepStatus, reason: String) {
        self.resolve(n, status, Some(reason.clone()));
        let name = self.steps[n].name.clone();
        self.failed.get_or_insert((name, reason));
    }

    /// A step behind the pivot has failed. Returns whether it is to be tried again.
    pub(super) fn fail_retriable(&mut self, n: usize, reason: String) -> bool {
        let step = &mut self.steps[n];
        step.tries += 1;
        let again = step.tries < TRIES;
        (step.status, step.reason) = (if again { StepStatus::Retrying } else { StepStatus::Parked }, Some(reason));
        again
    }

    /// The next step to be undone: of those that are or may be done, the last one.
    pub(super) fn to_undo(&self) -> Option<usize> {
        let undone = |step: &&StepProgress| {
            matches!(step.status, StepStatus::Done | StepStatus::Unknown | StepStatus::Undoing) && !step.retriable
        };
        let last = self.steps.iter().filter(undone).max_by_key(|step| step.order)?;
        self.steps.iter().position(|step| step.name == last.name)
    }
}
