//! The order service.

mod domain;
mod fulfillment;
mod http;
mod view;

pub use domain::{Order, PlaceOrder, Status};

use view::{CustomerRow, OrderRow};

use eventstore::{BoxError, StartFrom, prelude::*};

use crate::{
    contracts::{CustomerMessage, InventoryMessage, OrderMessage, PaymentMessage, ShippingMessage},
    service::{Place, Service},
};
use domain::{Cancel, Complete, Confirm};
use fulfillment::{CompleteOrders, OrderFulfillment};

#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
enum Answer {
    Payment(PaymentMessage),
    Inventory(InventoryMessage),
    Shipping(ShippingMessage),
}

/// Moves orders on with what the other services answer.
struct FollowOrders;

impl Reactor for FollowOrders {
    const NAME: &'static str = "follow_orders";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = Answer;

    fn react(&self, event: &Recorded<Answer>) -> Commands {
        let order = Id::<Order>::from(event.stream.key());
        match &event.data {
            Answer::Payment(PaymentMessage::Failed { reason }) => send(order, Cancel { reason: reason.clone() }),
            Answer::Inventory(InventoryMessage::Rejected { reason }) => send(order, Cancel { reason: reason.clone() }),
            Answer::Inventory(InventoryMessage::Reserved) => send(order, Confirm),
            Answer::Shipping(ShippingMessage::Shipped { tracking }) => {
                send(order, Complete { tracking: tracking.clone() })
            }
            Answer::Payment(_) | Answer::Inventory(InventoryMessage::Released) => Commands::none(),
        }
    }
}

/// Starts the service.
pub async fn start(place: &Place) -> Result<Service, BoxError> {
    let (store, bus) = place.open("order").await?;
    let runner = place
        .runner(&store)
        .relay::<OrderMessage>(&bus)
        .inbox::<PaymentMessage>(&bus)
        .inbox::<InventoryMessage>(&bus)
        .inbox::<ShippingMessage>(&bus)
        .inbox::<CustomerMessage>(&bus)
        .read_model::<OrderRow>()
        .read_model::<CustomerRow>();
    let runner = if place.orchestrated {
        let asks = ["payment", "inventory", "shipping"];
        let runner = asks.into_iter().fold(runner, |runner, service| runner.relay_commands(service, &bus));
        runner.saga::<OrderFulfillment>().park_unreadable().reactor(CompleteOrders).park_unreadable()
    } else {
        runner.reactor(FollowOrders).park_unreadable()
    };
    let running = runner.start();
    let router = http::router(store.clone());
    Service::new("order", store, running).serve(place.addresses.order, router).await
}
