//! The shipping service.

use eventstore::{BoxError, StartFrom, prelude::*};

use crate::{
    contracts::{OrderMessage, ShippingCommand, ShippingMessage},
    service::{Place, Service},
};

#[derive(Event, Clone, Debug, PartialEq)]
pub enum ShipmentEvent {
    Shipped { tracking: String },
}

/// The shipment of one order; its id is that of the order.
#[derive(Aggregate)]
pub struct Shipment {
    shipped: bool,
}

impl Evolve for Shipment {
    type Event = ShipmentEvent;

    fn evolve(&mut self, _: ShipmentEvent) {
        self.shipped = true;
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Ship {
    tracking: String,
}

impl Decide<Ship> for Shipment {
    fn decide(&self, Ship { tracking }: Ship) -> Decision<Self> {
        ensure!(!self.shipped, "the order is shipped already");
        Ok(vec![ShipmentEvent::Shipped { tracking }])
    }
}

impl Publish for ShippingMessage {
    type From = ShipmentEvent;

    fn publish(event: &Recorded<ShipmentEvent>) -> Vec<Self> {
        let ShipmentEvent::Shipped { tracking } = event.data.clone();
        vec![Self::Shipped { tracking }]
    }
}

/// Ships what is confirmed.
struct ShipOrders;

impl Reactor for ShipOrders {
    const NAME: &'static str = "ship_orders";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = OrderMessage;

    fn react(&self, event: &Recorded<OrderMessage>) -> Commands {
        match event.data {
            OrderMessage::Confirmed => {
                let tracking = format!("T-{}", event.id.simple());
                send(Id::<Shipment>::from(event.stream.key()), Ship { tracking })
            }
            OrderMessage::Created { .. } | OrderMessage::Cancelled { .. } => Commands::none(),
        }
    }
}

/// Ships what it is asked to, in an orchestrated shop.
struct ShipWhenAsked;

impl Reactor for ShipWhenAsked {
    const NAME: &'static str = "ship_when_asked";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = ShippingCommand;

    fn react(&self, event: &Recorded<ShippingCommand>) -> Commands {
        let ShippingCommand::ShipOrder {} = event.data;
        let tracking = format!("T-{}", event.id.simple());
        send(Id::<Shipment>::from(event.stream.key()), Ship { tracking })
    }
}

/// Starts the service.
pub async fn start(place: &Place) -> Result<Service, BoxError> {
    let (store, bus) = place.open("shipping").await?;
    let runner = place.runner(&store).relay::<ShippingMessage>(&bus);
    let runner = if place.orchestrated {
        runner.inbox::<ShippingCommand>(&bus).reactor(ShipWhenAsked)
    } else {
        runner.inbox::<OrderMessage>(&bus).reactor(ShipOrders)
    };
    let running = runner.park_unreadable().start();
    Ok(Service::new("shipping", store, running))
}
