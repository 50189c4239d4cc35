//! Messages between services of [eventstore](https://docs.rs/eventstore): a published language, relays, inboxes, and
//! buses.
//!
//! A relay follows the log of a service and publishes messages of its events. An inbox of another service records the
//! messages of a topic in that service's own log, where they are events as all others. A [`Bus`] is between the two: a
//! log of its own ([`LogBus`]), or a broker through an adapter.

mod bus;
mod cloud_events;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod envelope;
mod inbox;
mod log_bus;
mod metrics;
mod publish;
mod relay;
mod runs;

pub use bus::{
    Abilities, Bus, BusError, Delivered, Delivery, Kind, Last, Offset, Order, Outcome, Publisher, Source, Start,
    Unread, check_group, check_topic, partition,
};
pub use cloud_events::{NotAMessage, STRUCTURED};
pub use envelope::Envelope;
pub use inbox::{Inbox, InboxOffset, Inboxes, ReadInboxes, RejectedMessage};
pub use log_bus::LogBus;
pub use publish::Publish;
pub use relay::Relay;
pub use runs::RunMessaging;
