//! Events in their stored form: an event that could not be read back is refused before it is stored.

use uuid::Uuid;

use crate::{
    error::{EventError, StoreError},
    event::{Event, NewEvent, Raw},
    invalid::Invalid,
    limits,
    metadata::Metadata,
    timestamp::Timestamp,
};

/// Returns an event in its stored form, and the event as every later reader decodes it. Fails with
/// [`Invalid::TooLarge`] if the body is over its limit, and with [`StoreError::Unwritable`] if the event cannot be
/// written or read back.
///
/// The event is read back at once: an event that no program could read must never get into the log.
pub(crate) fn stored<E: Event>(event: &E) -> Result<(Stored, E), StoreError> {
    read_back(event).map_err(|reason| match reason {
        EventError::TooLarge(size) => {
            Invalid::TooLarge { what: "the body of an event", size, limit: limits::BODY_BYTES }.into()
        }
        reason => StoreError::Unwritable { name: event.name().into(), reason },
    })
}

fn read_back<E: Event>(event: &E) -> Result<(Stored, E), EventError> {
    let (name, schema, body) = (event.name(), event.schema(), event.encode()?);
    if body.len() > limits::BODY_BYTES {
        return Err(EventError::TooLarge(body.len()));
    }
    let mut read = Vec::with_capacity(1);
    E::decode(name, schema, &body, &mut |event| read.push(event)).map_err(|error| one_way(&error))?;
    let (Some(again), true) = (read.pop(), read.is_empty()) else {
        return Err(EventError::OneWay("today's form must be read as one event".into()));
    };
    Ok((Stored { schema, data: Raw { name: name.into(), tags: event.tags(), body } }, again))
}

fn one_way(error: &EventError) -> EventError {
    EventError::OneWay(error.to_string())
}

/// The stored form of an event that has no id yet.
pub(crate) struct Stored {
    pub schema: u32,
    pub data: Raw,
}

impl Stored {
    pub(crate) fn stamp(self, id: Uuid, metadata: &Metadata, occurred_at: Option<Timestamp>) -> NewEvent {
        NewEvent { id, schema: self.schema, occurred_at, metadata: metadata.clone(), data: self.data }
    }
}
