//! The published languages of the shop: all that its services know of each other.
//!
//! The key of each message is the id of its order, or of its customer.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

/// A product, and how many pieces of it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// The product.
    pub product_id: String,
    /// How many pieces.
    pub quantity: u32,
}

/// What the order service says.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "order", topic = "orders", rename_all = "camelCase")]
pub enum OrderMessage {
    /// A customer has placed an order.
    Created {
        /// Who.
        customer_id: String,
        /// What.
        items: Vec<Item>,
        /// The price of all items.
        total_cents: i64,
    },
    /// The order is paid and its items are reserved: it can be shipped, and cannot be cancelled any more.
    Confirmed,
    /// The order is cancelled: what was done for it is undone.
    Cancelled {
        /// Why.
        reason: String,
    },
}

/// What the payment service says.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "payment", topic = "payments", rename_all = "camelCase")]
pub enum PaymentMessage {
    /// The order is paid.
    Completed {
        /// What is paid for, so that inventory need not remember the order.
        items: Vec<Item>,
        /// How much.
        cents: i64,
    },
    /// The bank has refused the payment.
    Failed {
        /// Why.
        reason: String,
    },
    /// A payment was given back.
    Refunded {
        /// How much.
        cents: i64,
    },
}

/// What the inventory service says.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "inventory", topic = "inventory", rename_all = "camelCase")]
pub enum InventoryMessage {
    /// All items of the order are reserved.
    Reserved,
    /// An item is out of stock. Nothing is reserved.
    Rejected {
        /// Why.
        reason: String,
    },
    /// The items of the order are in stock again.
    Released,
}

/// What the shipping service says.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "order", topic = "shipping", rename_all = "camelCase")]
pub enum ShippingMessage {
    /// The order is on its way.
    Shipped {
        /// By which the customer finds the parcel.
        tracking: String,
    },
}

/// What the notification service says.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "notification", topic = "notifications", rename_all = "camelCase")]
pub enum NotificationMessage {
    /// A mail was sent.
    Sent {
        /// What the mail is about: `created`, `shipped`, `payment_failed` or `unpaid`.
        about: String,
    },
}

/// What the customer service says: the state of the customer, so that others can keep a row of it.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "customer", topic = "customers", rename_all = "camelCase")]
pub enum CustomerMessage {
    /// A customer has registered.
    #[event(name = "user.registered")]
    Registered {
        /// The name.
        name: String,
    },
    /// A customer has changed.
    Changed {
        /// The new name.
        name: String,
    },
}

/// What the payment service is asked to do, in an orchestrated shop.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "payment", topic = "payment.commands")]
pub enum PaymentCommand {
    /// Charge the customer.
    ProcessPayment {
        /// For what.
        items: Vec<Item>,
        /// How much.
        cents: i64,
    },
    /// Give the money back, or never charge.
    RefundPayment {},
}

/// What the inventory service is asked to do, in an orchestrated shop.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "inventory", topic = "inventory.commands")]
pub enum InventoryCommand {
    /// Reserve all items, or none.
    ReserveInventory {
        /// Which.
        items: Vec<Item>,
    },
    /// Give the items back, or never reserve them.
    ReleaseInventory {},
}

/// What the shipping service is asked to do, in an orchestrated shop.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "shipping", topic = "shipping.commands")]
pub enum ShippingCommand {
    /// Ship the order.
    ShipOrder {},
}
