//! The events that an instance of a process records about itself.

use serde::{Deserialize, Serialize};

use crate::{error::EventError, event::Event, json::encode, stream::StreamId};

/// The result of a command that recorded nothing, if other commands depend on that result. It is recorded under the
/// command's id, so the log decides once between the command and the mark.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// The place of the command in the answer.
    pub place: String,
    /// Why the command was refused; `None` if there was nothing to do.
    pub refused: Option<String>,
}

impl Mark {
    /// The stored name.
    pub const NAME: &'static str = "saga.answered";
}

/// An instance is over and its row is about to be deleted: no instance with this key begins again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {}

impl Ended {
    /// The stored name.
    pub const NAME: &'static str = "saga.ended";
}

/// An operator has changed an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intervened {
    /// The operation: `skip`, `cancel`, `compensate` or `wake`.
    pub what: String,
    /// Why.
    pub reason: String,
}

impl Intervened {
    /// The stored name.
    pub const NAME: &'static str = "saga.intervened";
}

/// Stores events of an instance by their names, as JSON.
macro_rules! stored {
    ($($Event:ident)+) => {$(
        impl Event for $Event {
            const NAMES: &'static [&'static str] = &[Self::NAME];

            fn name(&self) -> &'static str {
                Self::NAME
            }

            fn encode(&self) -> Result<Vec<u8>, EventError> {
                encode(self)
            }

            fn decode(name: &str, schema: u32, body: &[u8], push: &mut dyn FnMut(Self)) -> Result<(), EventError> {
                decode(Self::NAME, name, schema, body).map(push)
            }
        }
    )+};
}

stored!(Mark Ended Intervened);

fn decode<'a, E: Deserialize<'a>>(expected: &str, name: &str, schema: u32, body: &'a [u8]) -> Result<E, EventError> {
    match schema {
        _ if name != expected => Err(EventError::Name(name.into(), std::any::type_name::<E>())),
        1 => Ok(serde_json::from_slice(body)?),
        newer => Err(EventError::Schema(name.into(), newer)),
    }
}

/// Returns the stream of an instance's own events: `saga.money_transfer-t1`.
pub fn stream_of(process: &str, key: &str) -> StreamId {
    StreamId::new(&format!("saga.{process}"), key)
}
