//! The messages of a part: what is to be published, and the events that wait behind a parked one.

use std::collections::HashMap;

use eventstore_core::{Event, Invalid, Raw, Recorded, StoreError, limits};
use eventstore_engine::{Disposition, Failure, Fault, Part, Queue, failure::at};

use crate::{
    envelope::{Envelope, kind_of},
    publish::Publish,
};

/// What is to be published of a part.
#[derive(Default)]
pub struct Outgoing {
    /// The messages, in the order of the log.
    pub messages: Vec<Envelope>,
    /// Of each message, the place of its event in the page.
    pub places: Vec<usize>,
    /// The events that wait, and in which queues.
    pub waiting: Vec<(Queue, usize)>,
}

impl Outgoing {
    /// Asks the events of a part for their messages.
    pub fn of<M: Publish>(part: &Part<'_>, source: &str, most: usize) -> Result<Self, Failure> {
        let decoded = part.page.decoded::<M::From>();
        let mut outgoing = Self::default();
        for place in part.places.clone() {
            let raw = &part.page.events[place];
            if !M::From::NAMES.contains(&&*raw.data.name) {
                continue;
            }
            if let Some(queue) = part.stream_waits(raw) {
                outgoing.waiting.push((queue, place));
                continue;
            }
            let events = match decoded.at(part.page, place) {
                Ok(events) => events,
                Err(failed) => {
                    let queues = part.unreadable(raw, None, failed)?;
                    outgoing.waiting.extend(queues.into_iter().map(|queue| (queue, place)));
                    continue;
                }
            };
            // How many messages of each type the event has had: an event that was split on reading counts as one.
            let mut counts: HashMap<&str, u32> = HashMap::new();
            for event in events {
                let said = at(raw, || Ok(M::publish(event))).map_err(|failed| unkeyed(part, raw, failed))?;
                for message in said {
                    let key = at(raw, || Ok(message.key(event))).map_err(|failed| unkeyed(part, raw, failed))?;
                    // No dead letter could name another key.
                    let named = limits::name("key", &key).map_err(StoreError::from);
                    named.map_err(|error| unkeyed(part, raw, Failure { fault: Fault::Row, ..error.into() }.at(raw)))?;
                    let n = counts.entry(kind_of::<M>(message.name())).or_default();
                    *n += 1;
                    match part.disposition(raw, &key) {
                        Disposition::Elsewhere => {}
                        Disposition::Wait => {
                            let waits = (Queue::Key(key), place);
                            if !outgoing.waiting.contains(&waits) {
                                outgoing.waiting.push(waits);
                            }
                        }
                        Disposition::Process => {
                            let envelope = at(raw, || written(&message, event, source, key.clone(), *n, most));
                            let envelope =
                                envelope.map_err(|failed| Failure { fault: Fault::Row, ..failed }.of(&key))?;
                            outgoing.messages.push(envelope);
                            outgoing.places.push(place);
                        }
                    }
                }
            }
        }
        part.same_keys()?;
        Ok(outgoing)
    }

    /// Returns the messages of commands that another service is asked to execute: the events of a category.
    pub fn of_commands(
        part: &Part<'_>,
        category: &str,
        topic: &str,
        source: &str,
        most: usize,
    ) -> Result<Self, Failure> {
        let mut outgoing = Self::default();
        for place in part.places.clone() {
            let raw = &part.page.events[place];
            let Some(kind) = raw.data.name.strip_prefix("command.") else { continue };
            if raw.stream.category() != category {
                continue;
            }
            let key = raw.stream.key();
            match part.disposition(raw, key) {
                Disposition::Elsewhere => {}
                Disposition::Wait => outgoing.waiting.push((Queue::Key(key.to_owned()), place)),
                Disposition::Process => {
                    let envelope = checked(Envelope::of_command(raw, topic, kind, source), most);
                    let envelope = envelope
                        .map_err(|error| Failure { fault: Fault::Row, ..Failure::from(error) }.at(raw).of(key))?;
                    outgoing.messages.push(envelope);
                    outgoing.places.push(place);
                }
            }
        }
        part.same_keys()?;
        Ok(outgoing)
    }
}

/// A failure of an event whose keys are not known parks its stream; with several shards, another one may have other keys
/// of it, so the relay stops.
fn unkeyed(part: &Part<'_>, raw: &Recorded<Raw>, failed: Failure) -> Failure {
    match part.shard.is_whole() {
        true => failed.in_queue(Queue::Stream(raw.stream.to_string())),
        false => failed.for_certain(),
    }
}

/// Writes a message. Fails if no bus could carry it.
fn written<M: Publish>(
    message: &M,
    event: &Recorded<M::From>,
    source: &str,
    key: String,
    n: u32,
    most: usize,
) -> Result<Envelope, StoreError> {
    let unwritable = |reason| StoreError::Unwritable { name: message.name().into(), reason };
    checked(Envelope::of(message, event, source, key, n).map_err(unwritable)?, most)
}

/// Refuses a message that no bus could carry. `most`: the most bytes.
fn checked(envelope: Envelope, most: usize) -> Result<Envelope, StoreError> {
    envelope.check()?;
    match envelope.bytes() {
        size if size > most => Err(Invalid::TooLarge { what: "a message", size, limit: most }.into()),
        _ => Ok(envelope),
    }
}
