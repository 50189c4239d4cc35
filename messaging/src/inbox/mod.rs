//! Inboxes: record the messages of a topic in the log of a service.
//!
//! A message is recorded under its own id, so it is recorded once, however often it is delivered. Where the bus is a
//! log, the offset is written in the transaction that records the messages.

mod arrivals;
mod list;
mod processor;
mod reader;
mod table;

use std::marker::PhantomData;

use eventstore_core::Message;

pub use list::{InboxOffset, Inboxes, ReadInboxes, RejectedMessage};
pub(crate) use processor::InboxProcessor;

use crate::bus::{Bus, Start};

/// An inbox for the messages of a type: for [`RunMessaging::inbox`](crate::RunMessaging::inbox).
pub struct Inbox<M> {
    pub(crate) bus: Bus,
    pub(crate) group: Option<String>,
    pub(crate) start: Start,
    of: PhantomData<fn() -> M>,
}

impl<M: Message> Inbox<M> {
    /// Returns an inbox that reads from a bus.
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone(), group: None, start: Start::Earliest, of: PhantomData }
    }

    /// Sets the group: all nodes that share one reading of the topic. By default the name of the program, which
    /// [`Store::with_source`](eventstore_core::Store::with_source) gives. A new group begins anew.
    pub fn group(self, group: &str) -> Self {
        Self { group: Some(group.into()), ..self }
    }

    /// Sets where a new group begins; by default with the first message that the topic has.
    pub fn start(self, start: Start) -> Self {
        Self { start, ..self }
    }
}

impl<M: Message> From<&Bus> for Inbox<M> {
    fn from(bus: &Bus) -> Self {
        Self::new(bus)
    }
}
