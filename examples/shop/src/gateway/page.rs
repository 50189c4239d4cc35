//! The page of an order: what all services have said of it.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

use crate::contracts::{InventoryMessage, NotificationMessage, OrderMessage, PaymentMessage, ShippingMessage};

/// What the services say of orders.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
pub enum PageEvent {
    /// The order service.
    Order(OrderMessage),
    /// The payment service.
    Payment(PaymentMessage),
    /// The inventory service.
    Inventory(InventoryMessage),
    /// The shipping service.
    Shipping(ShippingMessage),
    /// The notification service.
    Notification(NotificationMessage),
}

impl PageEvent {
    /// Returns the name of the step.
    fn step(&self) -> String {
        match self {
            Self::Order(OrderMessage::Created { .. }) => "created".into(),
            Self::Order(OrderMessage::Confirmed) => "confirmed".into(),
            Self::Order(OrderMessage::Cancelled { reason }) => format!("cancelled: {reason}"),
            Self::Payment(PaymentMessage::Completed { .. }) => "paid".into(),
            Self::Payment(PaymentMessage::Failed { reason }) => format!("not paid: {reason}"),
            Self::Payment(PaymentMessage::Refunded { .. }) => "refunded".into(),
            Self::Inventory(InventoryMessage::Reserved) => "reserved".into(),
            Self::Inventory(InventoryMessage::Rejected { reason }) => format!("not reserved: {reason}"),
            Self::Inventory(InventoryMessage::Released) => "released".into(),
            Self::Shipping(ShippingMessage::Shipped { .. }) => "shipped".into(),
            Self::Notification(NotificationMessage::Sent { about }) => format!("mail: {about}"),
        }
    }
}

fn order_of(event: &Recorded<PageEvent>) -> Vec<String> {
    vec![event.stream.key().to_owned()]
}

/// The page of an order. Messages of different services arrive in any order; their steps are kept as they come.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, Clone, PartialEq)]
#[read_model(name = "order_page", keys = order_of)]
pub struct OrderPage {
    /// The price, once the order is known.
    pub total_cents: Option<i64>,
    /// What has happened.
    pub steps: Vec<String>,
    /// The position of the last message.
    #[read_model(index)]
    pub changed: i64,
}

impl Project for OrderPage {
    type Event = PageEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<PageEvent>) {
        if let PageEvent::Order(OrderMessage::Created { total_cents, .. }) = event.data {
            row.total_cents = Some(total_cents);
        }
        row.steps.push(event.data.step());
        row.changed = i64::try_from(event.position.0).unwrap_or(i64::MAX);
    }
}
