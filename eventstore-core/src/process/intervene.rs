//! What an operator does to an instance, as changes of its row. The node that runs the instance goes on from there.

use std::fmt;

use uuid::Uuid;

use crate::{
    contract::{Append, Write},
    error::EventError,
    event::{Event, NewEvent, Raw},
    metadata::Metadata,
    process::{
        instance::StoredInstance,
        mark::{Intervened, stream_of},
        plan_script::Stimulus,
        progress::{Progress, SagaStatus, StepStatus},
        turn::Terms,
    },
    stream::Expected,
    timestamp::Timestamp,
};

/// An operation of an operator on one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intervention {
    /// Tries a parked instance again.
    Retry,
    /// Skips what a parked instance waits for: the steps and timers that failed.
    Skip,
    /// Ends the instance.
    Cancel,
    /// Undoes the steps that are or may be done.
    Compensate,
    /// Tries steps and timers that wait for another try at once.
    Wake,
}

impl fmt::Display for Intervention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Cancel => "cancel",
            Self::Compensate => "compensate",
            Self::Wake => "wake",
        })
    }
}

impl Intervention {
    /// Changes the row. Returns why the operation makes no sense for the instance, having changed nothing.
    pub fn change(self, row: &mut StoredInstance, reason: &str, terms: Terms) -> Result<(), &'static str> {
        let now = terms.now;
        match self {
            Self::Retry => row.ask_again().then_some(()).ok_or("is not parked"),
            Self::Skip => skip(row, reason),
            _ if row.status.is_over() => Err("is over"),
            Self::Cancel => {
                // What a node has claimed before ends with the instance, too.
                row.timers.clear();
                row.withdraw();
                (row.status, row.due) = (SagaStatus::Cancelled, terms.keep_finished.map(|time| now + time));
                (row.changed_at, row.error) = (now, Some(reason.into()));
                Ok(())
            }
            Self::Compensate => ask_undo(row, reason),
            Self::Wake => wake(row, now),
        }
    }

    /// Returns the append that records the operation in the instance's own stream, so that its history shows it.
    pub fn append(self, process: &str, key: &str, reason: &str, actor: Option<String>) -> Result<Append, EventError> {
        let event = Intervened { what: self.to_string(), reason: reason.into() };
        let data = Raw { name: Intervened::NAME.into(), tags: vec![], body: event.encode()? };
        let id = Uuid::now_v7();
        let metadata = Metadata { command_id: id, correlation_id: id, actor, ..Metadata::default() };
        let events = vec![NewEvent { id, schema: 1, occurred_at: None, metadata, data }];
        let write = Write { stream: stream_of(process, key), expected: Expected::Any, events };
        Ok(Append { writes: vec![write], ..Append::default() })
    }
}

/// Skips each step and each timer that the instance is parked at.
fn skip(row: &mut StoredInstance, reason: &str) -> Result<(), &'static str> {
    if row.status != SagaStatus::Parked {
        return Err("is not parked");
    }
    row.timers.retain(|timer| timer.next.is_some());
    if let Some(plan) = &mut row.plan {
        skip_step(plan, &format!("skipped: {reason}"));
    }
    row.ask_again();
    Ok(())
}

fn skip_step(plan: &mut Progress, reason: &str) {
    if plan.waits.take().is_none() {
        return;
    }
    let back = plan.failed.is_some();
    let parked = plan.steps.iter().position(|step| step.status == StepStatus::Parked);
    let first = || plan.steps.iter().position(|step| step.status == StepStatus::Waiting);
    // What waits is the undoing of a step, a step after the pivot, or a step that the code does not have any more.
    let Some(n) = (if back { plan.to_undo() } else { parked.or_else(first) }) else { return };
    if back {
        let step = &mut plan.steps[n];
        (step.status, step.reason) = (StepStatus::Undone, Some(reason.into()));
    } else {
        plan.resolve(n, StepStatus::Done, Some(reason.into()));
    }
}

/// Asks for the steps to be undone. A node may be sending a step of which the row does not know yet, so the node that
/// runs the instance [begins](begin_undo) once it has completed each answer that may be half given.
fn ask_undo(row: &mut StoredInstance, reason: &str) -> Result<(), &'static str> {
    if row.is_asked_again() {
        return Err("is being tried again");
    }
    let plan = undoable(row)?;
    if plan.asked.is_some() {
        return Err("is being undone already");
    }
    plan.asked = Some(reason.into());
    row.due = Some(Timestamp::default());
    Ok(())
}

/// Returns the plan of an instance whose steps can be undone. Fails with the reason why they cannot.
fn undoable(row: &mut StoredInstance) -> Result<&mut Progress, &'static str> {
    match &mut row.plan {
        None => Err("has no steps that could be undone"),
        Some(plan) if plan.failed.is_some() => Err("is being undone already"),
        Some(plan) if plan.pivoted() => Err("has passed its pivot: its steps are not undone any more"),
        Some(plan) => Ok(plan),
    }
}

/// Begins to undo the steps of an instance if an operator has asked for it and no answer of it may be half given. An
/// instance that has passed its pivot meanwhile goes on. Returns whether the row is changed.
pub fn begin_undo(row: &mut StoredInstance) -> bool {
    if row.is_firing() {
        return false;
    }
    let Some(reason) = row.withdraw() else { return false };
    let Ok(plan) = undoable(row) else {
        row.due = if row.status == SagaStatus::Parked { None } else { row.next() };
        return true;
    };
    let sent: Vec<_> = (0..plan.steps.len()).filter(|n| plan.steps[*n].status == StepStatus::Sent).collect();
    for n in sent {
        plan.fail(n, StepStatus::Unknown, reason.clone());
    }
    if plan.failed.is_none() {
        let next = plan.steps.iter().find(|step| step.status == StepStatus::Waiting);
        let name = next.map(|step| step.name.clone()).unwrap_or_default();
        plan.failed = Some((name, reason));
    }
    plan.waits = None;
    // Timers of the steps would come too late; those among the commands of a step stay.
    row.timers.retain(|timer| timer.fired > 0 || Stimulus::<Intervened>::of(&timer.place).is_none());
    row.status = SagaStatus::Parked;
    row.ask_again()
}

fn wake(row: &mut StoredInstance, now: Timestamp) -> Result<(), &'static str> {
    if row.status == SagaStatus::Parked {
        return Err("is parked: retry or skip");
    }
    let mut woken = false;
    for timer in &mut row.timers {
        let again = matches!(Stimulus::<Intervened>::of(&timer.place), Some(Stimulus::Again(_)));
        if timer.next.is_some() && (timer.error.is_some() || again) {
            (timer.next, woken) = (Some(now), true);
        }
    }
    if !woken {
        return Err("waits for no other try");
    }
    row.due = row.next();
    Ok(())
}
