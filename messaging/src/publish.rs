//! What a service says to others: [`Publish`].

use eventstore_core::{Event, Message, Recorded};

/// Says which messages a service publishes of its events. Pure: it is asked again after a crash, and must return the
/// same messages in the same order.
///
/// A `match` without `_` is advised: a new event then does not compile until its author has said whether it is
/// published. What a message needs must be in the event: enrich the event when it is decided.
///
/// ```
/// use eventstore::{Message, Publish, prelude::*};
///
/// #[derive(Event, Clone)]
/// enum OrderEvent {
///     Placed { customer: String, cents: i64 },
///     Noted { text: String },
/// }
///
/// #[derive(Event, Clone)]
/// #[event(prefix = "order", topic = "orders")]
/// enum OrderMessage {
///     Placed { order: String, cents: i64 },
/// }
///
/// impl Publish for OrderMessage {
///     type From = OrderEvent;
///
///     fn publish(event: &Recorded<OrderEvent>) -> Vec<Self> {
///         let order = event.stream.key().to_owned();
///         match &event.data {
///             OrderEvent::Placed { cents, .. } => vec![Self::Placed { order, cents: *cents }],
///             OrderEvent::Noted { .. } => vec![], // private
///         }
///     }
/// }
/// ```
pub trait Publish: Message {
    /// The events of the service.
    type From: Event;

    /// Returns the messages of an event; none if it is private.
    fn publish(event: &Recorded<Self::From>) -> Vec<Self>;

    /// Returns the key of a message: messages of one key are published in order, and the key chooses the partition. By
    /// default the key of the stream. It should not be personal data, since it stays in brokers.
    fn key(&self, event: &Recorded<Self::From>) -> String {
        event.stream.key().to_owned()
    }
}
