//! Orders: what may become of one, and when.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    catalogue,
    contracts::{Item, OrderMessage},
};

#[derive(Event, Clone, Debug, PartialEq)]
pub enum OrderEvent {
    Created { customer: String, items: Vec<Item>, total_cents: i64 },
    Confirmed,
    Cancelled { reason: String },
    Completed { tracking: String },
}

/// Where an order is.
#[derive(Serialize, Deserialize, Clone, Copy, Default, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is no such order.
    #[default]
    New,
    /// It is placed.
    Created,
    /// It is paid and reserved.
    Confirmed,
    /// It is cancelled.
    Cancelled,
    /// It is shipped.
    Completed,
}

/// An order.
#[derive(Aggregate)]
pub struct Order {
    status: Status,
    /// The price of all items.
    pub(super) total_cents: i64,
}

impl Order {
    /// Where it is.
    pub fn status(&self) -> Status {
        self.status
    }
}

impl Evolve for Order {
    type Event = OrderEvent;

    fn evolve(&mut self, event: OrderEvent) {
        self.status = match event {
            OrderEvent::Created { total_cents, .. } => {
                self.total_cents = total_cents;
                Status::Created
            }
            OrderEvent::Confirmed => Status::Confirmed,
            OrderEvent::Cancelled { .. } => Status::Cancelled,
            OrderEvent::Completed { .. } => Status::Completed,
        };
    }
}

/// Places an order.
#[derive(Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlaceOrder {
    /// Who orders.
    pub customer_id: String,
    /// What.
    pub items: Vec<Item>,
}

impl PlaceOrder {
    /// Whether an event is what this request asks for.
    pub fn is_of(&self, event: &OrderEvent) -> bool {
        matches!(event, OrderEvent::Created { customer, items, .. } if (customer, items) == (&self.customer_id, &self.items))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Confirm;

#[derive(Clone, Debug, PartialEq)]
pub struct Cancel {
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Complete {
    pub tracking: String,
}

impl Decide<PlaceOrder> for Order {
    fn decide(&self, PlaceOrder { customer_id: customer, items }: PlaceOrder) -> Decision<Self> {
        ensure!(self.status == Status::New, "the order is placed already");
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        ensure!((1..=64).contains(&customer.len()) && customer.chars().all(plain), "an order has the id of a customer");
        ensure!((1..=20).contains(&items.len()), "an order has 1 to 20 items");
        let mut total_cents = 0;
        for Item { product_id, quantity } in &items {
            ensure!((1..=100).contains(quantity), "an item has 1 to 100 pieces");
            let product = catalogue::product(product_id);
            ensure!(product.is_some(), "there is no product {product_id}");
            total_cents += product.map_or(0, |product| product.cents) * i64::from(*quantity);
        }
        Ok(vec![OrderEvent::Created { customer, items, total_cents }])
    }
}

// Of confirming and cancelling one happens: what is shipped is what was confirmed.

impl Decide<Confirm> for Order {
    fn decide(&self, Confirm: Confirm) -> Decision<Self> {
        ensure!(self.status == Status::Created, "the order is {:?}", self.status);
        Ok(vec![OrderEvent::Confirmed])
    }
}

impl Decide<Cancel> for Order {
    fn decide(&self, Cancel { reason }: Cancel) -> Decision<Self> {
        ensure!(self.status != Status::New, "there is no such order");
        ensure!(self.status == Status::Created, "the order is {:?}", self.status);
        Ok(vec![OrderEvent::Cancelled { reason }])
    }
}

impl Decide<Complete> for Order {
    fn decide(&self, Complete { tracking }: Complete) -> Decision<Self> {
        ensure!(self.status == Status::Confirmed, "the order is {:?}", self.status);
        Ok(vec![OrderEvent::Completed { tracking }])
    }
}

impl Publish for OrderMessage {
    type From = OrderEvent;

    fn publish(event: &Recorded<OrderEvent>) -> Vec<Self> {
        match event.data.clone() {
            OrderEvent::Created { customer: customer_id, items, total_cents } => {
                vec![Self::Created { customer_id, items, total_cents }]
            }
            OrderEvent::Confirmed => vec![Self::Confirmed],
            OrderEvent::Cancelled { reason } => vec![Self::Cancelled { reason }],
            OrderEvent::Completed { .. } => vec![], // shipping has said so
        }
    }
}
