//! Lets a runner run relays and inboxes.

use eventstore_core::Message;
use eventstore_engine::Runner;

use crate::{
    bus::Bus,
    inbox::{Inbox, InboxProcessor},
    publish::Publish,
    relay::{CommandsTo, Messages, Relay, RelayProcessor},
};

/// Relays and inboxes, as methods of [`Runner`].
pub trait RunMessaging {
    /// Runs a relay, which publishes messages of the service's events to a bus. It is called `relay:orders` after its
    /// topic, and begins with the first event of the log, unless [`Runner::from_now`] or [`Runner::from`] says
    /// otherwise. It is operated as all processors are.
    ///
    /// Each message is published at least once, under an id that stays the same, and messages of a key in order. While
    /// the bus is away, the relay waits, and appends do not notice. A message that the bus will never take becomes a
    /// dead letter, and those behind it of its key wait.
    ///
    /// The store must say which program publishes: [`Store::with_source`](eventstore_core::Store::with_source).
    ///
    /// ```
    /// use eventstore::{Bus, LogBus, prelude::*};
    /// use futures::TryStreamExt;
    /// # #[derive(Event, Clone)]
    /// # enum OrderEvent { Placed { cents: i64 } }
    /// # #[derive(Aggregate)]
    /// # struct Order;
    /// # impl Evolve for Order { type Event = OrderEvent; fn evolve(&mut self, _: OrderEvent) {} }
    /// # #[derive(Clone)]
    /// # struct Place { cents: i64 }
    /// # impl Decide<Place> for Order {
    /// #     fn decide(&self, Place { cents }: Place) -> Decision<Self> { Ok(vec![OrderEvent::Placed { cents }]) }
    /// # }
    /// # #[derive(Event, Clone)]
    /// # #[event(prefix = "order", topic = "orders")]
    /// # enum OrderMessage { Placed { order: String, cents: i64 } }
    /// # impl Publish for OrderMessage {
    /// #     type From = OrderEvent;
    /// #     fn publish(event: &Recorded<OrderEvent>) -> Vec<Self> {
    /// #         let OrderEvent::Placed { cents } = event.data;
    /// #         vec![Self::Placed { order: event.stream.key().into(), cents }]
    /// #     }
    /// # }
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let bus: Bus = LogBus::new(&eventstore::connect("memory:").await?).into();
    ///
    /// let orders = eventstore::connect("memory:").await?.with_source("orders");
    /// let relay = Runner::new(&orders).relay::<OrderMessage>(&bus).start();
    /// orders.execute(Id::<Order>::from("o7"), Place { cents: 100 }).await?;
    /// relay.settle().await?; // published
    ///
    /// let shipping = eventstore::connect("memory:").await?.with_source("shipping");
    /// let inbox = Runner::new(&shipping).inbox::<OrderMessage>(&bus).start();
    /// inbox.settle().await?; // recorded
    /// let received: Vec<_> = shipping.read().events::<OrderMessage>().try_collect().await?;
    /// assert_eq!(received[0].stream.as_str(), "in.orders-o7");
    /// # inbox.stop().await;
    /// # relay.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    fn relay<M: Publish>(self, relay: impl Into<Relay<M>>) -> Self;

    /// Runs the relay of the commands that processes of this service ask another service to execute
    /// ([`ask`](eventstore_core::ask)): it publishes them under the topic `payments.commands`. It is called
    /// `relay:payments.commands`, and is as [`relay`](Self::relay) in all else.
    ///
    /// The type of a message is the name of the command, its version that of the command, and its key that of the process.
    /// The other service has an inbox for an enum with `#[event(topic = "payments.commands")]`, and a reactor that sends
    /// its aggregates the commands. Its answer is a message of its own. A message that arrives after its `expires`, which
    /// [`within`](eventstore_core::Commands::within) sets, is not executed.
    fn relay_commands(self, service: &str, bus: &Bus) -> Self;

    /// Runs an inbox, which records the messages of a topic in the service's own log: each once, in the stream
    /// `in.orders-o7` of its key, in the order of the topic. Read models, reactors and sagas of the message type follow
    /// them as they follow the service's own events. It is called `inbox:orders`.
    ///
    /// Messages of a type that `M` does not name are passed over. What is no message is kept as it is
    /// ([`Inboxes::rejected`](crate::Inboxes::rejected)), and the others go on.
    fn inbox<M: Message>(self, inbox: impl Into<Inbox<M>>) -> Self;
}

impl RunMessaging for Runner {
    fn relay<M: Publish>(self, relay: impl Into<Relay<M>>) -> Self {
        let (relay, source) = (relay.into(), self.store().source().map(str::to_owned));
        self.with(RelayProcessor::new(Messages::<M>::new(), relay.bus, relay.name.as_deref(), source))
    }

    fn relay_commands(self, service: &str, bus: &Bus) -> Self {
        let source = self.store().source().map(str::to_owned);
        self.with(RelayProcessor::new(CommandsTo::new(service), bus.clone(), None, source))
    }

    fn inbox<M: Message>(self, inbox: impl Into<Inbox<M>>) -> Self {
        let store = self.store().clone();
        self.with(InboxProcessor::new(inbox.into(), store))
    }
}
