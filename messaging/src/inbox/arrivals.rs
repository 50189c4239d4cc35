//! What a batch of deliveries becomes: events to be recorded, rows of rejected deliveries, and offsets.

use std::collections::{BTreeMap, HashSet};

use eventstore_core::{EventStore, Message, Position, StoreError, Tag, Timestamp, Version, Write};
use uuid::Uuid;

use super::{
    reader::Arrival,
    table::{OffsetRow, RejectedRow},
};
use crate::{
    bus::{Delivered, Delivery, Offset, Unread},
    cloud_events::NotAMessage,
    envelope::{Envelope, JSON},
    log_bus::{Addressed, append},
};

/// The type under which a message is recorded that had expired before it arrived. No type of a program is called so.
const EXPIRED: &str = "$expired";

/// What a batch of deliveries becomes.
pub struct Arrivals {
    /// The events, in the order of each partition; each id once.
    pub events: Vec<Addressed>,
    pub rejected: Vec<RejectedRow>,
    /// The last offset of each partition.
    pub offsets: BTreeMap<u16, Offset>,
    /// All deliveries, by partition.
    pub delivered: BTreeMap<u16, Vec<Delivered>>,
    pub passed_over: usize,
    pub expired: usize,
    /// Deliveries of an id that the batch has already.
    pub repeated: usize,
}

impl Arrivals {
    /// Sorts deliveries. `now` is the time of the store.
    pub fn of<M: Message>(group: &str, arrivals: Vec<Arrival>, now: Timestamp) -> Self {
        let mut sorted = Self {
            events: vec![],
            rejected: vec![],
            offsets: BTreeMap::new(),
            delivered: BTreeMap::new(),
            passed_over: 0,
            expired: 0,
            repeated: 0,
        };
        let mut ids = HashSet::new();
        for (partition, Delivery { offset, receipt, message }) in arrivals {
            let rejected = match message {
                Ok(message) => sorted.take::<M>(message, now, &mut ids).err(),
                Err(unread) => Some(unread),
            };
            if let Some(unread) = rejected {
                sorted.rejected.push(RejectedRow::new(M::TOPIC, group, partition, &offset, &unread, now));
            }
            sorted.offsets.insert(partition, offset.clone());
            sorted.delivered.entry(partition).or_default().push(Delivered { offset, receipt });
        }
        sorted
    }

    /// Takes a message; returns it as it came if the log cannot hold it.
    fn take<M: Message>(&mut self, message: Envelope, now: Timestamp, ids: &mut HashSet<Uuid>) -> Result<(), Unread> {
        match event::<M>(message, now)? {
            None => self.passed_over += 1,
            Some((event, _)) if !ids.insert(event.1.id) => self.repeated += 1,
            Some((event, expired)) => {
                self.expired += usize::from(expired);
                self.events.push(event);
            }
        }
        Ok(())
    }

    /// Returns the rows of the offsets.
    pub fn offset_rows(&self, topic: &str, group: &str, now: Timestamp) -> Vec<(String, OffsetRow)> {
        let row = |(partition, offset): (&u16, &Offset)| {
            (OffsetRow::key(topic, group, *partition), offset_row(topic, group, *partition, Some(offset), now))
        };
        self.offsets.iter().map(row).collect()
    }
}

/// Returns the row of an offset.
pub fn offset_row(topic: &str, group: &str, partition: u16, offset: Option<&Offset>, now: Timestamp) -> OffsetRow {
    let offset = offset.map(|offset| offset.0.clone());
    OffsetRow { topic: topic.into(), consumer_group: group.into(), partition, offset, changed_at: now.as_micros() }
}

/// Returns the event that is recorded for a message, and whether the message had expired; `None` if its type is not one
/// of the program's. Fails with the message as it came if the log cannot hold it.
pub fn event<M: Message>(mut message: Envelope, now: Timestamp) -> Result<Option<(Addressed, bool)>, Unread> {
    let name = format!("{}:{}", M::TOPIC, message.kind);
    if !M::NAMES.contains(&&*name) {
        return Ok(None);
    }
    let expires = message.extensions.get("expires").and_then(|text| text.parse::<Timestamp>().ok());
    let expired = expires.is_some_and(|expires| expires < now);
    let kind = message.kind.clone();
    let tags = if expired { vec![] } else { tags_of::<M>(&name, &message) };
    if expired {
        message.extensions.insert("type".into(), std::mem::replace(&mut message.kind, EXPIRED.into()));
    }
    let mut append = append(vec![message.received(M::TOPIC, tags)]);
    let checked = append.check();
    let Some(Write { stream, mut events, .. }) = append.writes.pop() else { return Ok(None) };
    let Some(event) = events.pop() else { return Ok(None) };
    match checked {
        Ok(_) => Ok(Some(((stream, event), expired))),
        Err(why) => {
            let message = Envelope::of_stored(event.recorded(stream, Version(1), Position(1), now), &kind);
            let (reason, headers) = (NotAMessage(why.to_string()), message.headers("ce-"));
            Err(Unread { reason, headers, body: message.data })
        }
    }
}

/// Returns the tags of a message: those of the events that the program reads it as. None if the program cannot read it.
fn tags_of<M: Message>(name: &str, message: &Envelope) -> Vec<Tag> {
    let mut tags: Vec<Tag> = vec![];
    if !M::TAGS.is_empty() && message.content_type.as_deref().is_none_or(|kind| kind == JSON) {
        let _ = M::decode(name, message.version, &message.data, &mut |event: M| {
            for tag in event.tags() {
                if !tags.contains(&tag) {
                    tags.push(tag);
                }
            }
        });
    }
    tags
}

/// Leaves out events whose ids are recorded. Returns how many there were.
pub async fn leave_out_known(store: &dyn EventStore, events: &mut Vec<Addressed>) -> Result<usize, StoreError> {
    let ids = events.iter().map(|(_, event)| event.id).collect();
    let known: HashSet<_> = store.recorded(ids).await?.into_iter().map(|event| event.id).collect();
    let before = events.len();
    events.retain(|(_, event)| !known.contains(&event.id));
    Ok(before - events.len())
}
