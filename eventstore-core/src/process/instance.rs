//! The row of an instance: its state, its timers, and what it has heard.

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
    /// The event that armed it.
    pub event: Uuid,
    /// Which of the events it is that its upcast made of one stored event.
    #[serde(default)]
    pub part: u32,
    /// Where it stands in the answer to that event.
    pub place: String,
    /// When it is due. While it is being fired, that stays.
    pub due: Timestamp,
    /// When it is looked at: when it is due, or when it is tried again. None: it waits for an operator or for other code.
    pub next: Option<Timestamp>,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'static, str>>,
    /// What it was to say when it was armed, for people.
    pub was: String,
    /// The state before the event and its version; none where that is the state that every instance begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<(u32, String)>,
    /// The ids of the messages that, once all are answered, make it needless.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub awaits: Vec<Uuid>,
    /// How often it has fired: once it has, nothing cancels it.
    #[serde(default)]
    pub fired: u32,
    /// Why it could not be answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl TimerId {
    /// The timers of an event, at no place yet.
    pub(super) fn new(event: Uuid, part: u32) -> Self {
        Self { event, part, place: String::new() }
    }
}

impl Timer {
    fn is(&self, other: &TimerId) -> bool {
        (self.event, self.part, &self.place) == (other.event, other.part, &other.place)
    }

    /// What tells it from the other timers of its instance.
    pub fn id(&self) -> TimerId {
        TimerId { event: self.event, part: self.part, place: self.place.clone() }
    }
}

/// What tells a timer from the others of its instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    event: Uuid,
    part: u32,
    place: String,
}

/// Whether the cause of an event is a message: its id, or that of the event it was in this log.
fn answers(cause: Uuid, message: Uuid) -> bool {
    cause == message || cause == event_id(message, 0)
}

/// How long a timer that has fired is left to the process that has fired it: then it fires again.
pub const FIRING: Duration = Duration::from_secs(60);
/// How many positions of events an instance remembers.
pub const HEARD: usize = 1_000;

/// An instance of a process, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoredInstance {
    /// The instance.
    pub key: String,
    /// The slot of the key.
    pub slot: u16,
    /// The state as JSON.
    pub state: String,
    /// The version of the state's form.
    pub version: u32,
    /// How it stands.
    pub status: SagaStatus,
    /// When something is to be done: a timer is due, or the instance is forgotten.
    pub due: Option<Timestamp>,
    /// The timers that have not been answered.
    pub timers: Vec<Timer>,
    /// The positions of the events that changed it or were answered, the last 1,000.
    pub heard: Vec<Position>,
    /// The steps, of a saga that has some.
    pub plan: Option<Progress>,
    /// When the first event of it was recorded.
    pub started_at: Timestamp,
    /// When the last event that changed it was recorded.
    pub changed_at: Timestamp,
    /// The last event that changed it.
    pub position: Position,
    /// The last refusal, or why it is parked.
    pub error: Option<String>,
}

impl StoredInstance {
    /// A row for a key that has none.
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

    /// How much of the limit it takes, in bytes, more or less.
    pub(super) fn bytes(&self) -> usize {
        let timer = |timer: &Timer| {
            let state = timer.state.as_ref().map_or(0, |(_, state)| state.len());
            128 + timer.place.len() + timer.was.len() + state + 40 * timer.awaits.len()
        };
        self.state.len() + self.timers.iter().map(timer).sum::<usize>()
    }

    /// An event has changed it or was answered.
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

    /// An event with this cause was heard: timers that waited for it to be answered wait no more.
    pub(super) fn answered(&mut self, cause: Uuid) {
        self.timers.retain_mut(|timer| {
            let awaited = timer.awaits.len();
            timer.awaits.retain(|id| !answers(cause, *id));
            timer.fired > 0 || awaited == timer.awaits.len() || !timer.awaits.is_empty()
        });
    }

    /// Takes over what an answer says of timers.
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

    /// Works out what follows from its timers and its status. `forget`: how long an instance that is over is kept.
    pub(super) fn settle(&mut self, forget: Option<Duration>) {
        let over = self.status.is_over();
        if self.status == SagaStatus::Parked {
            // Its timers are behind what it waits for.
            self.due = None;
            return;
        }
        if over {
            // What has fired is answered, whatever ends the instance.
            self.timers.retain(|timer| timer.fired > 0);
        }
        let timers = self.timers.iter().filter_map(|timer| timer.next);
        let end = forget.filter(|_| over && self.timers.is_empty()).map(|time| self.changed_at + time);
        self.due = timers.chain(end).min();
    }

    /// Takes the timers that are due, the earliest first: from here on nothing cancels them. The row must be stored before
    /// anything is sent. An instance that is parked fires nothing: what it waits for may be half answered.
    pub fn claim(&mut self, now: Timestamp) -> Vec<TimerId> {
        if self.status == SagaStatus::Parked {
            return vec![];
        }
        let mut due: Vec<_> =
            self.timers.iter_mut().filter(|timer| timer.next.is_some_and(|next| next <= now)).collect();
        due.sort_by_key(|timer| timer.due);
        let ids = due
            .into_iter()
            .map(|timer| {
                timer.fired += 1;
                timer.next = Some(now + FIRING);
                timer.id()
            })
            .collect();
        self.settle(None);
        ids
    }

    /// Whether it is over and has been kept as long as it is to be.
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
