//! The progress of the plan of an instance. It is stored with the instance.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{event::Event, process::plan::Plan};

/// The status of an instance of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SagaStatus {
    /// It reads events.
    Running,
    /// A step has failed, and the steps before it are being undone.
    Compensating,
    /// It waits for an operator or for other code; `error` says why.
    Parked,
    /// It is over.
    Finished,
    /// It is over: a step has failed, and all steps that were done are undone.
    Compensated,
    /// An operator has ended it.
    Cancelled,
}

impl SagaStatus {
    /// Whether the instance is over: it reads no events and none of its timers fires.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Compensated | Self::Cancelled)
    }
}

/// The progress of the plan of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Progress {
    /// The event that began the instance: the ids of all its commands are derived from it.
    pub event: Uuid,
    /// The index of that event among those that an upcast made of one stored event.
    #[serde(default)]
    pub part: u32,
    /// The conversation the instance belongs to.
    pub correlation: Uuid,
    /// The steps of the plan the instance began with, in their order.
    pub steps: Vec<StepProgress>,
    /// The step that failed and why, if one has: the steps that are done are then undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<(String, String)>,
    /// Why an operator has asked for the steps to be undone, until a node has begun to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// Whether the plan is over.
    #[serde(default)]
    pub over: bool,
    /// Why the plan waits, if it needs an operator or other code to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

/// The progress of one step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepProgress {
    /// The name of the step.
    pub name: String,
    /// Steps with the same number run side by side.
    pub group: u32,
    /// Whether the step comes after the pivot.
    #[serde(default)]
    pub retriable: bool,
    /// The status of the step.
    pub status: StepStatus,
    /// The place of the step in the order in which steps were done or failed, from 1; 0 before.
    #[serde(default)]
    pub order: u32,
    /// How often it has failed after the pivot.
    #[serde(default)]
    pub tries: u32,
    /// How often its commands were accepted and the step failed nevertheless: the next commands have other ids.
    #[serde(default)]
    pub resent: u32,
    /// The reason of the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The status of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepStatus {
    /// It has not begun.
    Waiting,
    /// Its commands are accepted, and it waits for its event.
    Sent,
    /// It is done.
    Done,
    /// It has failed, and none of its commands took effect.
    Failed,
    /// It has failed, and some of its commands may have taken effect.
    Unknown,
    /// It comes after the pivot, has failed, and will be tried again.
    Retrying,
    /// It comes after the pivot, has failed, and is not tried again without an operator.
    Parked,
    /// The commands that undo it were refused.
    Undoing,
    /// It is undone.
    Undone,
}

/// How often a step after the pivot is tried in all.
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
        Self { event, part, correlation, steps: steps.collect(), failed: None, asked: None, over: false, waits: None }
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

    /// Sets the final status of a step, and its place in the order.
    pub(super) fn resolve(&mut self, n: usize, status: StepStatus, reason: Option<String>) {
        let order = self.next_order();
        let step = &mut self.steps[n];
        (step.status, step.reason, step.order) = (status, reason, order);
    }

    /// Fails a step before the pivot: the steps that are done are undone from now on.
    pub(super) fn fail(&mut self, n: usize, status: StepStatus, reason: String) {
        self.resolve(n, status, Some(reason.clone()));
        let name = self.steps[n].name.clone();
        self.failed.get_or_insert((name, reason));
    }

    /// Fails a step after the pivot. Returns whether it is tried again.
    pub(super) fn fail_retriable(&mut self, n: usize, reason: String) -> bool {
        let step = &mut self.steps[n];
        step.tries += 1;
        let again = step.tries < TRIES;
        (step.status, step.reason) = (if again { StepStatus::Retrying } else { StepStatus::Parked }, Some(reason));
        again
    }

    /// Returns the next step to undo: the last of the steps that are or may be done.
    pub(super) fn to_undo(&self) -> Option<usize> {
        let undone = |step: &&StepProgress| {
            matches!(step.status, StepStatus::Done | StepStatus::Unknown | StepStatus::Undoing) && !step.retriable
        };
        let last = self.steps.iter().filter(undone).max_by_key(|step| step.order)?;
        self.steps.iter().position(|step| step.name == last.name)
    }
}
