//! The row of an instance: its state, its timers, and the positions of its events.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    cause::event_id,
    engine::shard::slot,
    process::{
        commands::When,
        progress::{Progress, SagaStatus},
        walk::{Arm, TimerChange},
    },
    stream::Position,
    timestamp::Timestamp,
};

/// A timer of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timer {
    /// The event that armed the timer.
    pub event: Uuid,
    /// The index of that event among those that an upcast made of one stored event.
    #[serde(default)]
    pub part: u32,
    /// The place of the timer in the answer to that event.
    pub place: String,
    /// When the timer is due. Firing does not change it.
    pub due: Timestamp,
    /// When a node next handles the timer: when it is due, or when it is tried again. `None`: the timer waits for an
    /// operator or for other code.
    pub next: Option<Timestamp>,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'static, str>>,
    /// The text of the commands it was armed with, for people.
    pub was: String,
    /// The version and the state before the event; `None` if that is the state that every instance begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<(u32, String)>,
    /// The ids of messages: once all are answered, the timer is removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub awaits: Vec<Uuid>,
    /// How often the timer has fired. After the first time nothing cancels it.
    #[serde(default)]
    pub fired: u32,
    /// Why the timer could not be answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl TimerId {
    /// Returns an id of an event's timers, with an empty place.
    pub(super) fn new(event: Uuid, part: u32) -> Self {
        Self { event, part, place: String::new() }
    }
}

impl Timer {
    fn is(&self, other: &TimerId) -> bool {
        (self.event, self.part, &self.place) == (other.event, other.part, &other.place)
    }

    /// Returns the id of the timer within its instance.
    pub fn id(&self) -> TimerId {
        TimerId { event: self.event, part: self.part, place: self.place.clone() }
    }
}

/// The id of a timer within its instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    event: Uuid,
    part: u32,
    place: String,
}

/// Whether the cause of an event is a message: the id of the message, or of its event in this log.
fn answers(cause: Uuid, message: Uuid) -> bool {
    cause == message || cause == event_id(message, 0)
}

/// How long a timer that has fired is left to the node that fired it; after that, or once another node has the shard, it
/// fires again.
pub const FIRING: Duration = Duration::from_secs(60);
/// How many positions of events a row keeps.
pub const HEARD: usize = 1_000;

/// An instance of a process, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoredInstance {
    /// The key of the instance.
    pub key: String,
    /// The slot of the key.
    pub slot: u16,
    /// The state as JSON.
    pub state: String,
    /// The version of the state's form.
    pub version: u32,
    /// The status of the instance.
    pub status: SagaStatus,
    /// When a timer is due, or the row of an instance that is over is to be deleted.
    pub due: Option<Timestamp>,
    /// The timers that have not been answered.
    pub timers: Vec<Timer>,
    /// The positions of the last 1,000 events that changed the instance or were answered.
    pub heard: Vec<Position>,
    /// The progress of the plan, of a saga with steps.
    pub plan: Option<Progress>,
    /// When the first event of the instance was recorded.
    pub started_at: Timestamp,
    /// When the last event that changed the instance was recorded.
    pub changed_at: Timestamp,
    /// The position of the last event that changed the instance.
    pub position: Position,
    /// The last refusal, or why the instance is parked.
    pub error: Option<String>,
}

impl StoredInstance {
    /// Returns a row for a key that has none.
    pub fn new(key: &str) -> Self {
        Self {
            key: key.into(),
            slot: slot(key),
            state: String::new(),
            version: 1,
            status: SagaStatus::Running,
            due: None,
            timers: vec![],
            heard: vec![],
            plan: None,
            started_at: Timestamp::default(),
            changed_at: Timestamp::default(),
            position: Position(0),
            error: None,
        }
    }

    /// Returns its approximate size in bytes, for [`limits::INSTANCE_BYTES`](crate::limits::INSTANCE_BYTES).
    pub(super) fn bytes(&self) -> usize {
        let timer = |timer: &Timer| {
            let state = timer.state.as_ref().map_or(0, |(_, state)| state.len());
            128 + timer.place.len() + timer.was.len() + state + 40 * timer.awaits.len()
        };
        self.state.len() + self.timers.iter().map(timer).sum::<usize>()
    }

    /// Notes an event that has changed the instance or was answered.
    pub(super) fn hear(&mut self, position: Position, recorded_at: Timestamp) {
        if self.heard.is_empty() {
            self.started_at = recorded_at;
        }
        if self.heard.last() != Some(&position) {
            self.heard.push(position);
            let more = self.heard.len().saturating_sub(HEARD);
            self.heard.drain(..more);
        }
        (self.position, self.changed_at) = (position, recorded_at);
    }

    /// Whether a timer waits for a message with this id to be answered.
    pub(super) fn awaits(&self, cause: Uuid) -> bool {
        self.timers.iter().flat_map(|timer| &timer.awaits).any(|id| answers(cause, *id))
    }

    /// Notes an event with this cause: removes the timers that wait for no other answer.
    pub(super) fn answered(&mut self, cause: Uuid) {
        self.timers.retain_mut(|timer| {
            let awaited = timer.awaits.len();
            timer.awaits.retain(|id| !answers(cause, *id));
            timer.fired > 0 || awaited == timer.awaits.len() || !timer.awaits.is_empty()
        });
    }

    /// Applies the timer changes of an answer.
    pub(super) fn change(
        &mut self,
        changes: &[TimerChange],
        armed: &TimerId,
        since: Timestamp,
        state: Option<&(u32, String)>,
        id: impl Fn(&str) -> Uuid,
    ) {
        for change in changes {
            let arm = match change {
                TimerChange::Arm(arm) => arm.clone(),
                TimerChange::Cancel(name) => {
                    self.timers.retain(|timer| timer.fired > 0 || timer.name.as_deref() != Some(&**name));
                    continue;
                }
            };
            let Arm { place, name, when, was, awaits } = arm;
            let due = match when {
                When::After(time) => since + time,
                When::At(instant) => instant,
            };
            let timer = Timer {
                event: armed.event,
                part: armed.part,
                place,
                due,
                next: Some(due),
                name,
                was,
                state: state.cloned(),
                awaits: awaits.iter().map(|place| id(place)).collect(),
                fired: 0,
                error: None,
            };
            let same = |other: &Timer| {
                other.is(&timer.id()) || (timer.name.is_some() && other.name == timer.name && other.fired == 0)
            };
            self.timers.retain(|other| !same(other));
            self.timers.push(timer);
        }
    }

    /// Sets the status and `due`. `status`: the status by the state alone. `forget`: how long an instance that is over is
    /// kept.
    pub(super) fn stand(&mut self, status: SagaStatus, forget: Option<Duration>) {
        let over = status.is_over();
        if over {
            // A timer that has fired is answered even after the end of the instance.
            self.timers.retain(|timer| timer.fired > 0);
            self.withdraw();
        }
        if status == SagaStatus::Parked || self.timers.iter().any(|timer| timer.next.is_none()) {
            self.park();
            return;
        }
        let end = forget.filter(|_| over && self.timers.is_empty()).map(|time| self.changed_at + time);
        (self.status, self.due) = (status, [self.next(), end].into_iter().flatten().min());
    }

    /// Returns when a node next does something with an instance that goes on.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let undo = self.is_undo_asked().then(Timestamp::default);
        self.timers.iter().filter_map(|timer| timer.next).chain(undo).min()
    }

    /// Whether an operator has asked for the steps to be undone, and no node has begun to.
    pub fn is_undo_asked(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.asked.is_some())
    }

    /// Forgets that an operator has asked for the steps to be undone. Returns the reason.
    pub(super) fn withdraw(&mut self) -> Option<String> {
        self.plan.as_mut().and_then(|plan| plan.asked.take())
    }

    /// Whether a timer has fired and is not answered: its answer may be half given.
    pub fn is_firing(&self) -> bool {
        self.timers.iter().any(|timer| timer.fired > 0 && timer.error.is_none())
    }

    /// Parks the instance: its timers wait behind the event or timer that it is parked for. An operator who has asked
    /// for another try still waits for it.
    pub(super) fn park(&mut self) {
        if !self.is_asked_again() {
            (self.status, self.due) = (SagaStatus::Parked, self.is_undo_asked().then(Timestamp::default));
        }
    }

    /// Claims the timers that are due, and returns their ids, the earliest first: from here on nothing cancels them.
    /// The row must be stored before anything is sent. A parked instance fires no timer: the answer it is parked at may
    /// be half given.
    pub fn claim(&mut self, now: Timestamp) -> Vec<TimerId> {
        if self.status == SagaStatus::Parked {
            return vec![];
        }
        let mut due: Vec<_> =
            self.timers.iter_mut().filter(|timer| timer.next.is_some_and(|next| next <= now)).collect();
        if due.is_empty() {
            // An instance that is over and waits to be deleted stays so.
            return vec![];
        }
        due.sort_by_key(|timer| timer.due);
        let ids = due
            .into_iter()
            .map(|timer| {
                (timer.fired, timer.next, timer.error) = (timer.fired + 1, Some(now + FIRING), None);
                timer.id()
            })
            .collect();
        self.due = self.next();
        ids
    }

    /// Has what was claimed before and not answered claimed again at once, since the node that claimed it cannot write
    /// the answer any more. Returns whether there is such a timer, or such a try of a parked instance.
    pub fn reclaim(&mut self, now: Timestamp) -> bool {
        let claimed = |next: Option<Timestamp>| next.is_some_and(|next| next > now && next <= now + FIRING);
        if self.is_asked_again() {
            let claimed = claimed(self.due);
            self.due = if claimed { Some(now) } else { self.due };
            return claimed;
        }
        let mut found = false;
        for timer in &mut self.timers {
            if timer.fired > 0 && timer.error.is_none() && claimed(timer.next) {
                (timer.next, found) = (Some(now), true);
            }
        }
        found
    }

    /// Asks for a parked instance to be tried again: the node that runs it does so at its next look. Returns `false` if
    /// the instance is not parked.
    pub fn ask_again(&mut self) -> bool {
        if self.status == SagaStatus::Parked {
            self.due = Some(Timestamp::default());
        }
        self.status == SagaStatus::Parked
    }

    /// Whether the instance is parked, and an operator has [asked](Self::ask_again) for another try.
    pub fn is_asked_again(&self) -> bool {
        self.status == SagaStatus::Parked && self.due.is_some()
    }

    /// Notes that the try which an operator asked for is made.
    pub(super) fn tried(&mut self) {
        if self.is_asked_again() {
            self.due = None;
        }
    }

    /// Claims the timers that a parked instance waits for, as [`claim`](Self::claim) does, once it is tried again.
    pub fn claim_again(&mut self, now: Timestamp) -> Vec<TimerId> {
        self.due = Some(now + FIRING);
        let waiting = self.timers.iter_mut().filter(|timer| timer.next.is_none());
        let claimed = waiting.map(|timer| {
            (timer.fired, timer.next, timer.error) = (timer.fired + 1, Some(now + FIRING), None);
            timer.id()
        });
        claimed.collect()
    }

    /// Whether the instance is over and its row is due to be deleted.
    pub fn is_forgotten(&self, now: Timestamp) -> bool {
        self.status.is_over() && self.timers.is_empty() && self.due.is_some_and(|due| due <= now)
    }

    pub(crate) fn timer(&self, id: &TimerId) -> Option<&Timer> {
        self.timers.iter().find(|timer| timer.is(id))
    }

    pub(super) fn timer_mut(&mut self, id: &TimerId) -> Option<&mut Timer> {
        self.timers.iter_mut().find(|timer| timer.is(id))
    }

    pub(super) fn remove_timer(&mut self, id: &TimerId) {
        self.timers.retain(|timer| !timer.is(id));
    }
}
