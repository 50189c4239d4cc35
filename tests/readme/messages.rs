//! What the guide to messages says.

use eventstore::{StartFrom, prelude::*};
use serde::{Deserialize, Serialize};

type Any = Box<dyn std::error::Error>;

#[derive(Event, Clone)]
enum OrderEvent {
    Placed { cents: i64 },
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "order", topic = "orders", rename_all = "camelCase")]
enum OrderMessage {
    Placed { order_id: String, total_cents: i64 },
}

impl Publish for OrderMessage {
    type From = OrderEvent;

    fn publish(event: &Recorded<OrderEvent>) -> Vec<Self> {
        let OrderEvent::Placed { cents } = event.data;
        vec![Self::Placed { order_id: event.stream.key().to_owned(), total_cents: cents }]
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
enum ShipmentEvent {
    Prepared,
}

#[derive(Aggregate)]
struct Shipment {
    prepared: bool,
}

impl Evolve for Shipment {
    type Event = ShipmentEvent;

    fn evolve(&mut self, ShipmentEvent::Prepared: ShipmentEvent) {
        self.prepared = true;
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Prepare;

impl Decide<Prepare> for Shipment {
    fn decide(&self, Prepare: Prepare) -> Decision<Self> {
        ensure!(!self.prepared, "it is prepared already");
        Ok(vec![ShipmentEvent::Prepared])
    }
}

struct ShipOrders;

impl Reactor for ShipOrders {
    const NAME: &'static str = "ship_orders";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = OrderMessage;

    fn react(&self, event: &Recorded<OrderMessage>) -> Commands {
        let OrderMessage::Placed { order_id, .. } = &event.data;
        send(Id::<Shipment>::from(order_id.as_str()), Prepare)
    }
}

#[derive(ReadModel, Serialize, Deserialize, Default)]
struct OpenShipments {
    cents: i64,
}

impl Project for OpenShipments {
    type Event = OrderMessage;

    fn project(row: &mut Row<Self>, event: &Recorded<OrderMessage>) {
        let OrderMessage::Placed { total_cents, .. } = event.data;
        row.cents += total_cents;
    }
}

#[tokio::test]
async fn a_message_becomes_a_command_and_a_row() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let (bus_url, url) = (&*format!("sqlite://{}", folder.path().join("bus.db").display()), "memory:");
    let bus = eventstore::connect_bus(bus_url).await?; // sqlite://bus.db, postgres://…, nats://…, memory:
    let store = eventstore::connect(url).await?.with_source("orders"); // messages say which program they are from
    let runner = Runner::new(&store).relay::<OrderMessage>(&bus).start();
    let placed = [OrderEvent::Placed { cents: 5 }];
    store.append(eventstore::StreamId::new("order", "o7"), eventstore::Expected::Any, placed).await?;
    runner.settle().await?;
    runner.stop().await;

    let store = eventstore::connect(url).await?.with_source("shipping");
    let runner = Runner::new(&store)
        .inbox::<OrderMessage>(&bus) // called inbox:orders; the group is the name of the program
        .reactor(ShipOrders) // a message → a command
        .read_model::<OpenShipments>() // a message → a row
        .start();
    runner.settle().await?;
    assert!(store.load(Id::<Shipment>::from("o7")).await?.state.prepared);
    assert_eq!(store.read_model::<OpenShipments>().list().await?.len(), 1);
    runner.stop().await;
    operators(&store).await
}

async fn operators(store: &Store) -> Result<(), Any> {
    use eventstore::ReadInboxes;

    let id = String::from("orders/shipping/0/1");
    for rejected in store.inboxes().rejected("orders").await? {
        println!("{}: {}", rejected.id, rejected.reason);
    }
    store.inboxes().retry::<OrderMessage>(&id).await?; // with a release that can read it
    store.inboxes().discard(&id).await?;
    Ok(())
}
