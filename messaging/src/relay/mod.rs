//! Relays: follow the log of a service and publish messages of its events.
//!
//! The log is the outbox: a relay has a checkpoint and no table of messages. Nothing is published before it is safe from
//! a crash of the database, and the checkpoint does not pass a message that is not confirmed.

mod in_order;
mod language;
mod outgoing;
mod processor;
mod relayed;

use std::marker::PhantomData;

#[cfg(any(test, feature = "conformance"))]
pub(crate) use in_order::publish as publish_in_order;
pub(crate) use language::{CommandsTo, Messages};
pub(crate) use processor::{RelayProcessor, failure, locked};

use crate::{bus::Bus, publish::Publish};

/// A relay that publishes the messages of a type: for [`RunMessaging::relay`](crate::RunMessaging::relay).
pub struct Relay<M> {
    pub(crate) bus: Bus,
    pub(crate) name: Option<String>,
    of: PhantomData<fn() -> M>,
}

impl<M: Publish> Relay<M> {
    /// Returns a relay to a bus.
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone(), name: None, of: PhantomData }
    }

    /// Sets its name, the one after `relay:`. By default the topic. A second relay to the same topic needs one of its
    /// own.
    pub fn name(self, name: &str) -> Self {
        Self { name: Some(name.into()), ..self }
    }
}

impl<M: Publish> From<&Bus> for Relay<M> {
    fn from(bus: &Bus) -> Self {
        Self::new(bus)
    }
}
