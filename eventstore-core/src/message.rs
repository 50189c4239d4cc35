//! Messages: events of a published language.

use crate::event::Event;

/// An event that one service publishes and others record: a part of a published language. Derive it, with the topic, by
/// `#[event(topic = "orders")]`.
///
/// Events of an aggregate are private to their service and change with its model. A message is a promise to other
/// services. Both sides use the same enum, or each its own with the variants it cares about.
///
/// The stored names of a message begin with its topic and a colon, `orders:order.placed`. On the bus, its type is the
/// name without them, `order.placed`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "belongs to no topic",
    note = "name the topic of these events: `#[event(topic = \"orders\")]` on the enum"
)]
pub trait Message: Event {
    /// The topic: 1 to 200 of `a-z`, `0-9`, `_` and `.`.
    const TOPIC: &'static str;
}
