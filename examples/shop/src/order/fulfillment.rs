//! The orchestrated shop: a saga of the order service asks the others, step by step, and undoes what was done if a step
//! fails. Confirming is the pivot: from there on the order is not cancelled any more.

use eventstore::{StartFrom, prelude::*};
use serde::{Deserialize, Serialize};

use super::domain::{Cancel, Complete, Confirm, Order, OrderEvent};
use crate::contracts::{InventoryMessage, Item, PaymentMessage, ShippingMessage};

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "payment.process_payment")]
struct ProcessPayment {
    items: Vec<Item>,
    cents: i64,
}

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "payment.refund_payment")]
struct RefundPayment {}

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "inventory.reserve_inventory")]
struct ReserveInventory {
    items: Vec<Item>,
}

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "inventory.release_inventory")]
struct ReleaseInventory {}

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "shipping.ship_order")]
struct ShipOrder {}

/// What the saga hears: the order, and the answers of the other services.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
pub enum Heard {
    /// The order itself.
    Order(OrderEvent),
    /// An answer.
    Payment(PaymentMessage),
    /// An answer.
    Inventory(InventoryMessage),
    /// An answer.
    Shipping(ShippingMessage),
}

fn order_of(event: &Recorded<Heard>) -> Option<String> {
    Some(event.stream.key().to_owned())
}

/// Fulfils an order.
#[derive(Saga, Serialize, Deserialize, Clone, Debug)]
#[saga(steps, key = order_of, from = "beginning")]
pub struct OrderFulfillment {
    order: Id<Order>,
    items: Vec<Item>,
    cents: i64,
}

impl Steps for OrderFulfillment {
    type Event = Heard;

    fn begin(event: &Recorded<Heard>) -> Option<Self> {
        let Heard::Order(OrderEvent::Created { items, total_cents, .. }) = event.data.clone() else { return None };
        Some(Self { order: event.stream.key().into(), items, cents: total_cents })
    }

    fn steps(&self) -> Plan<Heard> {
        let items = self.items.clone();
        Plan::new()
            .step("payment", ask("payment", ProcessPayment { items: items.clone(), cents: self.cents }))
            .undo(ask("payment", RefundPayment {}))
            .done(|event| matches!(event, Heard::Payment(PaymentMessage::Completed { .. })))
            .failed(|event| match event {
                Heard::Payment(PaymentMessage::Failed { reason }) => Some(reason.clone()),
                _ => None,
            })
            .step("inventory", ask("inventory", ReserveInventory { items }))
            .undo(ask("inventory", ReleaseInventory {}))
            .done(|event| matches!(event, Heard::Inventory(InventoryMessage::Reserved)))
            .failed(|event| match event {
                Heard::Inventory(InventoryMessage::Rejected { reason }) => Some(reason.clone()),
                _ => None,
            })
            .step("confirm", send(&self.order, Confirm))
            .pivot()
            .step("shipping", ask("shipping", ShipOrder {}))
            .done(|event| matches!(event, Heard::Shipping(ShippingMessage::Shipped { .. })))
    }

    fn ended(&self, end: &End) -> Commands {
        match end {
            End::Done => Commands::none(),
            // Refused, if the customer was faster.
            End::Undone { step, reason } => send(&self.order, Cancel { reason: format!("{step}: {reason}") }),
        }
    }
}

/// Completes orders that are shipped.
pub(super) struct CompleteOrders;

impl Reactor for CompleteOrders {
    const NAME: &'static str = "complete_orders";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = ShippingMessage;

    fn react(&self, event: &Recorded<ShippingMessage>) -> Commands {
        let ShippingMessage::Shipped { tracking } = event.data.clone();
        send(Id::<Order>::from(event.stream.key()), Complete { tracking })
    }
}
