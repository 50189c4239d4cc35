//! The run of a plan: forward step by step, or back.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use uuid::Uuid;

use crate::{
    event::{Event, Recorded},
    invalid::Invalid,
    process::{
        commands::{Commands, When},
        outcome::{Next, Outcome, Send},
        plan::{End, Plan},
        progress::{Progress, StepStatus},
        walk::{Answer, Arm, Known, TimerChange, Walk},
    },
    timestamp::Timestamp,
};

/// The stimulus on which a plan goes on.
pub(crate) enum Stimulus<'a, E> {
    /// An event, and its index among those that an upcast made of one stored event.
    Event(&'a Recorded<E>, u32),
    /// A step is done, or has failed for the given reason, without an event.
    Said(&'a str, Option<String>),
    /// A step was not done in time.
    StepLate(&'a str),
    /// The steps up to the pivot were not done in time.
    Late,
    /// A step is due to be tried again.
    Again(&'a str),
    /// An operator retries the instance.
    Retry,
}

impl<'a, E> Stimulus<'a, E> {
    /// Returns the stimulus of a timer of a plan; `None` if it is a timer among the commands of a step.
    pub(super) fn of(place: &'a str) -> Option<Self> {
        Some(match place.split_once(':') {
            Some(("timeout", step)) => Self::StepLate(step),
            Some(("retry", step)) => Self::Again(step),
            None if place == DEADLINE => Self::Late,
            _ => return None,
        })
    }
}

const DEADLINE: &str = "timeout";

fn step_timeout(step: &str) -> String {
    format!("timeout:{step}")
}

fn step_retry(step: &str) -> String {
    format!("retry:{step}")
}

type Ended = Arc<dyn Fn(&End) -> Commands + core::marker::Send + Sync>;

/// The run of a plan, up to where it waits for another event.
#[derive(Clone)]
pub(super) struct PlanScript {
    progress: Progress,
    steps: Arc<HashMap<&'static str, Step>>,
    ended: Ended,
    timers: Vec<TimerChange>,
    /// Whether an operator retries the instance: refused commands are sent again.
    retry: bool,
    now: Timestamp,
}

struct Step {
    send: Commands,
    undo: Commands,
    /// Whether the step waits for an event.
    waits: bool,
    within: Option<Duration>,
}

impl PlanScript {
    pub(super) fn new<E: Event>(
        plan: &Plan<E>,
        progress: Option<Progress>,
        stimulus: &Stimulus<'_, E>,
        now: Timestamp,
        ended: Ended,
    ) -> Self {
        let steps = plan.steps.iter().map(|(step, ..)| {
            let (send, undo) = (step.send.clone(), step.undo.clone());
            (step.name, Step { send, undo, waits: step.done.is_some(), within: step.within })
        });
        let (steps, retry) = (Arc::new(steps.collect()), matches!(stimulus, Stimulus::Retry));
        let mut script = match (progress, stimulus) {
            (Some(progress), _) => Self { progress, steps, ended, timers: vec![], retry, now },
            (None, stimulus) => {
                let (event, part) = match stimulus {
                    Stimulus::Event(event, part) => ((event.id, event.metadata.correlation_id), *part),
                    _ => ((Uuid::nil(), Uuid::nil()), 0),
                };
                let progress = Progress::new(event, part, plan);
                let mut script = Self { progress, steps, ended, timers: vec![], retry, now };
                if let Some(deadline) = plan.deadline {
                    script.arm(DEADLINE.into(), When::After(deadline), "the deadline of the plan".into());
                }
                return script;
            }
        };
        script.progress.waits = None;
        match stimulus {
            Stimulus::Event(event, _) => script.hear(plan, &event.data),
            Stimulus::Said(name, failed) => script.said(name, failed.clone()),
            Stimulus::StepLate(name) => script.late(plan, name),
            Stimulus::Late => script.all_late(plan),
            Stimulus::Again(name) => script.again(name),
            Stimulus::Retry => script.again_all(),
        }
        script
    }

    pub(super) fn ids(&self) -> (Uuid, u32) {
        (self.progress.event, self.progress.part)
    }

    pub(super) fn waits(&self, step: &str) -> bool {
        self.steps.get(step).is_some_and(|step| step.waits)
    }

    /// Returns the step that a place belongs to.
    pub(super) fn step_of(place: &str) -> &str {
        let prefix = place.split('.').next().unwrap_or(place);
        let name = prefix.split_once(':').map_or(prefix, |(_, name)| name);
        name.split('#').next().unwrap_or(name)
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        self.steps.values().try_for_each(|step| {
            step.send.check()?;
            step.undo.check()
        })
    }

    fn arm(&mut self, place: String, when: When, was: String) {
        let name = Some(Cow::Owned(place.clone()));
        self.timers.push(TimerChange::Arm(Arm { place, name, when, was, awaits: vec![] }));
    }

    fn disarm(&mut self, place: String) {
        self.timers.push(TimerChange::Cancel(Cow::Owned(place)));
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.progress.steps.iter().position(|step| step.name == name)
    }

    /// Applies an event by which steps may be done, or have failed.
    fn hear<E: Event>(&mut self, plan: &Plan<E>, event: &E) {
        for n in 0..self.progress.steps.len() {
            let step = &self.progress.steps[n];
            let waits = matches!(step.status, StepStatus::Sent | StepStatus::Retrying | StepStatus::Parked);
            let Some(said) = plan.get(&step.name).filter(|_| waits) else { continue };
            let sent = step.status == StepStatus::Sent;
            if said.done.as_ref().is_some_and(|done| done(event)) {
                self.answered(n, None);
            } else if let Some(reason) = said.failed.as_ref().filter(|_| sent).and_then(|failed| failed(event)) {
                self.answered(n, Some(reason));
            }
        }
    }

    fn said(&mut self, name: &str, failed: Option<String>) {
        if let Some(n) = self.find(name).filter(|n| self.progress.steps[*n].status == StepStatus::Sent) {
            self.answered(n, failed);
        }
    }

    /// Notes that a step that was sent is done, or has failed.
    fn answered(&mut self, n: usize, failed: Option<String>) {
        let (name, retriable) = (self.progress.steps[n].name.clone(), self.progress.steps[n].retriable);
        self.disarm(step_timeout(&name));
        self.disarm(step_retry(&name));
        match failed {
            None => self.progress.resolve(n, StepStatus::Done, None),
            Some(reason) if retriable => {
                self.progress.steps[n].resent += 1;
                self.try_again(n, reason);
            }
            Some(reason) => self.progress.fail(n, StepStatus::Failed, reason),
        }
    }

    /// Notes that a step after the pivot has failed, and arms a timer for its next try if there is one.
    fn try_again(&mut self, n: usize, reason: String) {
        if self.progress.fail_retriable(n, reason) {
            let step = &self.progress.steps[n];
            let (place, seconds) = (step_retry(&step.name), 1_u64 << (step.tries - 1).min(9));
            let was = format!("another try of step `{}`", step.name);
            self.arm(place, When::At(self.now + Duration::from_secs(seconds.min(300))), was);
        }
    }

    fn late<E: Event>(&mut self, plan: &Plan<E>, name: &str) {
        let Some(n) = self.find(name).filter(|n| self.progress.steps[*n].status == StepStatus::Sent) else { return };
        let within = plan.get(name).and_then(|step| step.within).unwrap_or_default();
        let reason = format!("not done within {within:?}");
        if self.progress.steps[n].retriable {
            let step = &mut self.progress.steps[n];
            (step.status, step.reason) = (StepStatus::Parked, Some(reason));
        } else {
            self.progress.fail(n, StepStatus::Unknown, reason);
        }
    }

    fn all_late<E: Event>(&mut self, plan: &Plan<E>) {
        if self.progress.pivoted() {
            return;
        }
        let reason = format!("not done within {:?}", plan.deadline.unwrap_or_default());
        for n in 0..self.progress.steps.len() {
            if self.progress.steps[n].status == StepStatus::Sent {
                let timeout = step_timeout(&self.progress.steps[n].name);
                self.disarm(timeout);
                self.progress.fail(n, StepStatus::Unknown, reason.clone());
            }
        }
    }

    fn again(&mut self, name: &str) {
        if let Some(n) = self.find(name).filter(|n| self.progress.steps[*n].status == StepStatus::Retrying) {
            self.progress.steps[n].status = StepStatus::Waiting;
        }
    }

    fn again_all(&mut self) {
        for step in &mut self.progress.steps {
            if matches!(step.status, StepStatus::Parked | StepStatus::Retrying) {
                (step.status, step.tries) = (StepStatus::Waiting, 0);
            }
        }
    }
}

/// A plan that is run with the known results of its commands.
struct Run<'a> {
    script: PlanScript,
    known: &'a Known,
    refused: Option<String>,
}

/// The result of the commands of a step.
enum Ran {
    Accepted,
    /// The words of the refusal, and whether another of the commands was accepted.
    Refused(String, bool),
}

impl PlanScript {
    pub(super) fn next(&self, known: &Known) -> Next {
        let mut run = Run { script: self.clone(), known, refused: None };
        match run.advance() {
            Err(send) => Next::Send(send),
            Ok(()) => {
                let Self { progress, timers, .. } = run.script;
                Next::Done(Box::new(Outcome { timers, plan: Some(progress), refused: run.refused }))
            }
        }
    }
}

type Sends<T> = Result<T, Send>;

impl Run<'_> {
    fn commands(&mut self, commands: &Commands, place: String, guarded: bool) -> Sends<Ran> {
        let mut walk = Walk::new(self.known, place.clone());
        let refused = walk.commands(commands, guarded).map_err(Send::from)?;
        let (timers, words) = (walk.timers, walk.refused);
        self.script.timers.extend(timers);
        if !refused {
            return Ok(Ran::Accepted);
        }
        let of = |known: &str| known.strip_prefix(&*place).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let some = self.known.iter().any(|(known, answer)| of(known) && *answer == Answer::Accepted);
        Ok(Ran::Refused(words.unwrap_or_default(), some))
    }

    /// Runs the plan until it needs an event, an operator or other code.
    fn advance(&mut self) -> Sends<()> {
        while !self.script.progress.over && self.script.progress.waits.is_none() {
            let on = match self.script.progress.failed {
                None => self.forward()?,
                Some(_) => self.back()?,
            };
            if !on {
                break;
            }
        }
        Ok(())
    }

    /// Runs the next group of steps. Returns whether there may be more to do.
    fn forward(&mut self) -> Sends<bool> {
        let progress = &self.script.progress;
        let Some(first) = progress.steps.iter().find(|step| step.status != StepStatus::Done) else {
            return self.end(&End::Done);
        };
        let (group, retriable) = (first.group, first.retriable);
        if retriable {
            self.script.disarm(DEADLINE.into());
        }
        let members: Vec<_> =
            (0..self.script.progress.steps.len()).filter(|n| self.script.progress.steps[*n].group == group).collect();
        let mut begun = false;
        for n in members {
            if self.script.progress.steps[n].status == StepStatus::Waiting && self.script.progress.failed.is_none() {
                self.begin(n)?;
                begun = true;
            }
        }
        let progress = &mut self.script.progress;
        let parked = progress.steps.iter().find(|step| step.status == StepStatus::Parked);
        let parked = parked.map(|step| format!("step `{}`: {}", step.name, step.reason.as_deref().unwrap_or_default()));
        if parked.is_some() && progress.waits.is_none() {
            progress.waits = parked;
        }
        Ok(begun)
    }

    fn begin(&mut self, n: usize) -> Sends<()> {
        let step = &self.script.progress.steps[n];
        let (name, retriable) = (step.name.clone(), step.retriable);
        let steps = self.script.steps.clone();
        let Some(said) = steps.get(&*name) else {
            self.script.progress.waits = Some(format!("step `{name}` is not in the plan any more"));
            return Ok(());
        };
        let resent = if step.resent > 0 { format!("#{}", step.resent) } else { String::new() };
        match self.commands(&said.send, format!("step:{name}{resent}"), !retriable)? {
            Ran::Accepted if said.waits => {
                self.script.progress.steps[n].status = StepStatus::Sent;
                if let Some(within) = said.within {
                    let was = format!("step `{name}` was not done in time");
                    self.script.arm(step_timeout(&name), When::After(within), was);
                }
            }
            Ran::Accepted => self.script.progress.resolve(n, StepStatus::Done, None),
            Ran::Refused(words, _) if retriable => self.script.try_again(n, words),
            Ran::Refused(words, some) => {
                self.script.progress.fail(n, if some { StepStatus::Unknown } else { StepStatus::Failed }, words);
            }
        }
        Ok(())
    }

    /// Undoes the next step. Returns whether there may be more to do.
    fn back(&mut self) -> Sends<bool> {
        if self.script.progress.steps.iter().any(|step| step.status == StepStatus::Sent) {
            return Ok(false);
        }
        let Some(n) = self.script.progress.to_undo() else {
            let (step, reason) = self.script.progress.failed.clone().unwrap_or_default();
            return self.end(&End::Undone { step, reason });
        };
        let step = &self.script.progress.steps[n];
        let name = step.name.clone();
        let wait = |reason: &str| Some(format!("step `{name}` cannot be undone: {reason}"));
        if step.status == StepStatus::Undoing && !self.script.retry {
            self.script.progress.waits = wait(step.reason.as_deref().unwrap_or_default());
            return Ok(false);
        }
        let steps = self.script.steps.clone();
        let Some(said) = steps.get(&*name) else {
            self.script.progress.waits = wait("it is not in the plan any more");
            return Ok(false);
        };
        match self.commands(&said.undo, format!("undo:{name}"), false)? {
            Ran::Accepted => {
                let step = &mut self.script.progress.steps[n];
                (step.status, step.reason) = (StepStatus::Undone, None);
                Ok(true)
            }
            Ran::Refused(words, _) => {
                self.script.progress.waits = wait(&words);
                let step = &mut self.script.progress.steps[n];
                (step.status, step.reason) = (StepStatus::Undoing, Some(words));
                Ok(false)
            }
        }
    }

    fn end(&mut self, end: &End) -> Sends<bool> {
        let commands = (self.script.ended)(end);
        if let Ran::Refused(words, _) = self.commands(&commands, "end".into(), false)? {
            self.refused = Some(words);
        }
        self.script.progress.over = true;
        Ok(false)
    }
}
