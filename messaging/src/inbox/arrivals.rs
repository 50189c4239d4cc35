//! What a batch of deliveries becomes: events to be recorded, rows of rejected deliveries, and offsets.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use eventstore_core::{Append, EventStore, Invalid, Message, Position, StoreError, Tag, Timestamp, Version};
use uuid::Uuid;

use super::{
    reader::Arrival,
    table::{OffsetRow, RejectedRow},
};
use crate::{
    bus::{Delivered, Delivery, Offset, Unread},
    cloud_events::NotAMessage,
    envelope::Envelope,
    log_bus::Addressed,
};

/// The type under which a message is recorded that had expired before it arrived. No type of a program is called so.
const EXPIRED: &str = "$expired";

/// What a batch of deliveries becomes.
pub struct Arrivals {
    /// The events, in the order of each partition; each id once.
    pub events: Vec<Addressed>,
    /// The partition and the offset of each event, by its id.
    places: HashMap<Uuid, (u16, Offset)>,
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
            places: HashMap::new(),
            rejected: vec![],
            offsets: BTreeMap::new(),
            delivered: BTreeMap::new(),
            passed_over: 0,
            expired: 0,
            repeated: 0,
        };
        let mut ids: HashMap<Uuid, usize> = HashMap::new();
        for (partition, Delivery { offset, receipt, message }) in arrivals {
            match message.map(|message| event::<M>(message, now)) {
                Err(unread) => {
                    sorted.rejected.push(RejectedRow::new(M::TOPIC, group, partition, &offset, &unread, now));
                }
                Ok(None) => sorted.passed_over += 1,
                Ok(Some((event, expired))) => match ids.get(&event.1.id) {
                    // One that the log can hold is not left out for one that it cannot.
                    Some(first) if held(&sorted.events[*first]).is_err() && held(&event).is_ok() => {
                        let unheld = std::mem::replace(&mut sorted.events[*first], event);
                        let id = unheld.1.id;
                        let place = sorted.places.insert(id, (partition, offset.clone()));
                        if let (Err((_, unread)), Some((partition, offset))) =
                            (unheld_message(M::TOPIC, unheld, now), place)
                        {
                            sorted.rejected.push(RejectedRow::new(M::TOPIC, group, partition, &offset, &unread, now));
                        }
                    }
                    Some(_) => sorted.repeated += 1,
                    None => {
                        ids.insert(event.1.id, sorted.events.len());
                        sorted.expired += usize::from(expired);
                        sorted.places.insert(event.1.id, (partition, offset.clone()));
                        sorted.events.push(event);
                    }
                },
            }
            sorted.offsets.insert(partition, offset.clone());
            sorted.delivered.entry(partition).or_default().push(Delivered { offset, receipt });
        }
        sorted
    }

    /// Rejects the events that the log cannot hold. Returns whether there is one.
    pub fn reject(&mut self, topic: &str, group: &str, now: Timestamp) -> bool {
        let before = self.events.len();
        for addressed in std::mem::take(&mut self.events) {
            match unheld_message(topic, addressed, now) {
                Ok(addressed) => self.events.push(addressed),
                Err((id, unread)) => {
                    let Some((partition, offset)) = self.places.get(&id) else { continue };
                    self.rejected.push(RejectedRow::new(topic, group, *partition, offset, &unread, now));
                }
            }
        }
        self.events.len() < before
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
/// of the program's.
pub fn event<M: Message>(mut message: Envelope, now: Timestamp) -> Option<(Addressed, bool)> {
    let name = format!("{}:{}", M::TOPIC, message.kind);
    if !M::NAMES.contains(&&*name) {
        return None;
    }
    let expires = message.extensions.get("expires").and_then(|text| text.parse::<Timestamp>().ok());
    let expired = expires.is_some_and(|expires| expires < now);
    let tags = if expired { vec![] } else { tags_of::<M>(&name, &message) };
    if expired {
        message.extensions.insert("type".into(), std::mem::replace(&mut message.kind, EXPIRED.into()));
    }
    Some((message.received(M::TOPIC, tags), expired))
}

/// Returns an event as it is, if the log can hold it; else its id, and its message as it came, with the reason.
fn unheld_message(topic: &str, addressed: Addressed, now: Timestamp) -> Result<Addressed, (Uuid, Unread)> {
    let reason = match held(&addressed) {
        Ok(()) => return Ok(addressed),
        Err(why) => NotAMessage(why.to_string()),
    };
    let (stream, event) = addressed;
    let id = event.id;
    let kind = match event.metadata.extra.get("type") {
        Some(serde_json::Value::String(kind)) => kind.clone(),
        _ => event.data.name.strip_prefix(topic).and_then(|name| name.strip_prefix(':')).unwrap_or_default().to_owned(),
    };
    let message = Envelope::of_stored(event.recorded(stream, Version(1), Position(1), now), &kind);
    Err((id, Unread { reason, headers: message.headers("ce-"), body: message.data }))
}

/// Fails if the log cannot hold an event.
pub fn held((stream, event): &Addressed) -> Result<(), Invalid> {
    Append::of([(stream.clone(), event.clone())]).check().map(drop)
}

/// Returns the tags of a message: those of the events that the program reads it as. None if the program cannot read it.
fn tags_of<M: Message>(name: &str, message: &Envelope) -> Vec<Tag> {
    let mut tags: Vec<Tag> = vec![];
    if !M::TAGS.is_empty() && message.is_json() {
        // What the program cannot read has no tags; an upcast of the program may panic.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            M::decode(name, message.version, &message.data, &mut |event: M| {
                for tag in event.tags() {
                    if !tags.contains(&tag) {
                        tags.push(tag);
                    }
                }
            })
        }));
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
