//! Splits the events of a part into those that are processed now and those that wait, where each event has one key.

use eventstore_core::{Event, Recorded};

use crate::{
    failure::{Failure, at},
    record::queue::Queue,
    run::{
        page::Decoded,
        processor::{Disposition, Part},
    },
};

/// The events of a part that are processed now, and those that wait, where each event has one key.
pub struct KeyedEvents<'a, E> {
    pub events: Vec<&'a Recorded<E>>,
    pub waiting: Vec<(Queue, usize)>,
    /// The key of each event that is processed now, and its place in the page; repeats are left out.
    of: Vec<(String, usize)>,
}

impl<'a, E: Event> KeyedEvents<'a, E> {
    /// Splits the events of a part. Fails if an event cannot be read and does not wait ([`Part::unreadable`]), if `key`
    /// panics, or if an event that waited has another key by now ([`Part::same_keys`]).
    pub fn of(part: &Part<'_>, decoded: &'a Decoded<E>, key: fn(&Recorded<E>) -> String) -> Result<Self, Failure> {
        let mut keyed = Self { events: vec![], waiting: vec![], of: vec![] };
        for place in part.places.clone() {
            let raw = &part.page.events[place];
            if !E::NAMES.contains(&&*raw.data.name) {
                continue;
            }
            if let Some(queue) = part.stream_waits(raw) {
                keyed.waiting.push((queue, place));
                continue;
            }
            let events = match decoded.at(part.page, place) {
                Ok(events) => events,
                Err(failed) => {
                    let keys = part.unreadable(raw, None, failed)?;
                    keyed.waiting.extend(keys.into_iter().map(|queue| (queue, place)));
                    continue;
                }
            };
            for event in events {
                let key = at(raw, || Ok(key(event))).map_err(Failure::for_certain)?;
                match part.disposition(raw, &key) {
                    Disposition::Process => {
                        keyed.events.push(event);
                        keyed.of.push((key, place));
                    }
                    Disposition::Wait => keyed.waiting.push((Queue::Key(key), place)),
                    Disposition::Elsewhere => {}
                }
            }
        }
        part.same_keys()?;
        keyed.of.dedup();
        Ok(keyed)
    }

    /// Names the event that is to blame, if the part has only one whose turn it is.
    pub fn blame(&self, part: &Part<'_>, failed: Failure) -> Failure {
        match &self.of[..] {
            [(key, place)] => failed.at(&part.page.events[*place]).of(key),
            _ => failed,
        }
    }
}
