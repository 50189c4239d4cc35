//! The read models of the order service.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

use super::domain::{OrderEvent, Status};
use crate::contracts::{CustomerMessage, Item};

/// An order, as its customer sees it.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, Clone, PartialEq)]
#[read_model(name = "orders")]
pub struct OrderRow {
    /// The version of the order, which is its entity tag.
    pub version: i64,
    /// Who has placed it.
    #[read_model(index)]
    pub customer_id: String,
    /// What.
    pub items: Vec<Item>,
    /// The price of all items.
    pub total_cents: i64,
    /// Where it is.
    pub status: Status,
    /// Why it is cancelled.
    pub reason: Option<String>,
    /// By which the customer finds the parcel.
    pub tracking: Option<String>,
}

impl Project for OrderRow {
    type Event = OrderEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<OrderEvent>) {
        row.version += 1;
        match event.data.clone() {
            OrderEvent::Created { customer, items, total_cents } => {
                row.customer_id = customer;
                row.items = items;
                row.total_cents = total_cents;
                row.status = Status::Created;
            }
            OrderEvent::Confirmed => row.status = Status::Confirmed,
            OrderEvent::Cancelled { reason } => {
                row.status = Status::Cancelled;
                row.reason = Some(reason);
            }
            OrderEvent::Completed { tracking } => {
                row.status = Status::Completed;
                row.tracking = Some(tracking);
            }
        }
    }
}

/// A row of each customer, kept from the messages of the customer service: this service never asks it.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, Clone, PartialEq)]
#[read_model(name = "customers")]
pub struct CustomerRow {
    /// The name.
    pub name: String,
}

impl Project for CustomerRow {
    type Event = CustomerMessage;

    fn project(row: &mut Row<Self>, event: &Recorded<CustomerMessage>) {
        match event.data.clone() {
            CustomerMessage::Registered { name } | CustomerMessage::Changed { name } => row.name = name,
        }
    }
}
