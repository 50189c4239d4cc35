//! The processes without an engine.

mod answers;
mod instances;
mod plans;
mod store;
mod stored;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    Commands, Decide, Decision, Evolve, Id, Recorded, ensure,
    event::Event,
    metadata::Metadata,
    process::{Answering, Script, Trigger},
    stream::{Position, StreamId, Version},
    timestamp::Timestamp,
};

#[derive(eventstore::Event, Clone, Debug, PartialEq)]
#[event(crate = crate)]
pub(super) enum LampEvent {
    SwitchedOn,
    SwitchedOff,
    Broke { reason: String },
}

#[derive(eventstore::Aggregate)]
#[aggregate(crate = crate)]
pub(super) struct Lamp {
    on: bool,
}

impl Evolve for Lamp {
    type Event = LampEvent;

    fn evolve(&mut self, event: LampEvent) {
        self.on = event == LampEvent::SwitchedOn;
    }
}

/// Switches a lamp on; refused if it is on already. The number only distinguishes commands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct On(u32);

/// Switches a lamp off; nothing to do if it is off already.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Off;

impl Decide<On> for Lamp {
    fn decide(&self, On(_): On) -> Decision<Self> {
        ensure!(!self.on, "it is on");
        Ok(vec![LampEvent::SwitchedOn])
    }
}

impl Decide<On> for (Lamp, Lamp) {
    fn decide(&self, command: On) -> Decision<Self> {
        self.0.decide(command)
    }
}

impl Decide<Off> for Lamp {
    fn decide(&self, Off: Off) -> Decision<Self> {
        Ok(if self.on { vec![LampEvent::SwitchedOff] } else { vec![] })
    }
}

#[derive(eventstore::Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(crate = crate, name = "grid.book")]
pub(super) struct Book {
    watts: u32,
}

pub(super) fn lamp(key: &str) -> Id<Lamp> {
    key.into()
}

pub(super) fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3_600)
}

/// Returns an event as a process reads it: at a position, an hour after the previous one.
pub(super) fn event<E: Event>(position: u64, data: E) -> Recorded<E> {
    let (stored, _) = crate::encode::stored(&data).expect("can be written");
    let metadata = Metadata { correlation_id: Uuid::from_u128(7), ..Metadata::default() };
    let new = stored.stamp(Uuid::from_u128(u128::from(position) << 64), &metadata, None);
    let at = Timestamp::default() + hours(position);
    new.recorded(StreamId::new("lamp", "l1"), Version(position), Position(position), at).with(data)
}

pub(super) fn answering(commands: Commands) -> Answering {
    answering_to(1, commands)
}

pub(super) fn answering_to(position: u64, commands: Commands) -> Answering {
    let event = event(position, LampEvent::SwitchedOn).with(());
    let trigger = Trigger { event, part: 0, due: None };
    Answering::new("lamps", "l1".into(), trigger, Script::commands(commands)).expect("within the limits")
}
