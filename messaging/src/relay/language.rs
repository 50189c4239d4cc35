//! What a relay publishes: the messages of a type, or the commands that a service asks another one to execute.

use std::{marker::PhantomData, ops::Range};

use eventstore_core::{Event, Item, Message, Query, engine::interned};
use eventstore_engine::{DecodedPage, Failure, Part, Reads};

use super::outgoing::Outgoing;
use crate::publish::Publish;

/// What a relay publishes.
pub trait Language: Send + Sync + 'static {
    /// Returns the topic.
    fn topic(&self) -> &'static str;

    /// Returns the query for the events that it asks for messages.
    fn query(&self) -> Query;

    /// Returns the names of those events, as [`Processor::reads`](eventstore_engine::Processor::reads) does.
    fn reads(&self) -> Reads;

    /// Decodes events ahead of their turn.
    fn decode(&self, page: &DecodedPage, places: Range<usize>);

    /// Asks the events of a part for their messages. `most`: the most bytes of a message.
    fn outgoing(&self, part: &Part<'_>, source: &str, most: usize) -> Result<Outgoing, Failure>;
}

/// The messages of a type.
pub struct Messages<M>(PhantomData<fn() -> M>);

impl<M> Messages<M> {
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<M: Publish> Language for Messages<M> {
    fn topic(&self) -> &'static str {
        <M as Message>::TOPIC
    }

    fn query(&self) -> Query {
        Query::names(M::From::NAMES)
    }

    fn reads(&self) -> Reads {
        Reads::of::<M::From>()
    }

    fn decode(&self, page: &DecodedPage, places: Range<usize>) {
        page.decoded::<M::From>().decode(page, places);
    }

    fn outgoing(&self, part: &Part<'_>, source: &str, most: usize) -> Result<Outgoing, Failure> {
        Outgoing::of::<M>(part, source, most)
    }
}

/// The commands that processes of this service ask another service to execute: the events of the category
/// `service.payments`, published under the topic `payments.commands`. They are not decoded: any command that a process of
/// any release has asked for is published.
pub struct CommandsTo {
    topic: &'static str,
    category: String,
}

impl CommandsTo {
    pub fn new(service: &str) -> Self {
        Self { topic: interned(format!("{service}.commands")), category: format!("service.{service}") }
    }
}

impl Language for CommandsTo {
    fn topic(&self) -> &'static str {
        self.topic
    }

    fn query(&self) -> Query {
        Item { category: Some(self.category.clone()), ..Item::default() }.into()
    }

    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn decode(&self, _: &DecodedPage, _: Range<usize>) {}

    fn outgoing(&self, part: &Part<'_>, source: &str, most: usize) -> Result<Outgoing, Failure> {
        Outgoing::of_commands(part, &self.category, self.topic, source, most)
    }
}
