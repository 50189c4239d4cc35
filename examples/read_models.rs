//! A shop, and three read models of three shapes: a row for each order; a row for each customer, joined from the streams
//! of orders and of customers; a row for each day.
//!
//! ```sh
//! cargo run --example read_models                                     # SQLite, in a temporary folder
//! DATABASE_URL=postgres://localhost/shop cargo run --features postgres --example read_models
//! ```

use std::{env, error::Error};

use CustomerEvent::*;
use OrderEvent::*;
use eventstore::{Expected, Position, Version, prelude::*};
use serde::{Deserialize, Serialize};

#[rustfmt::skip]
#[derive(Event, Clone, Debug)]
enum CustomerEvent {
    Registered { #[event(tag)] customer: Id<Customer>, name: String },
    Moved { #[event(tag)] customer: Id<Customer>, city: String },
}

#[rustfmt::skip]
#[derive(Event, Clone, Debug)]
enum OrderEvent {
    Placed { #[event(tag)] customer: Id<Customer>, amount: i64 },
    Paid { #[event(tag)] customer: Id<Customer>, amount: i64 },
    Cancelled { #[event(tag)] customer: Id<Customer> },
}

#[derive(Aggregate, Clone)]
struct Customer;

impl Evolve for Customer {
    type Event = CustomerEvent;

    fn evolve(&mut self, _: CustomerEvent) {}
}

#[derive(Aggregate, Clone)]
struct Order;

impl Evolve for Order {
    type Event = OrderEvent;

    fn evolve(&mut self, _: OrderEvent) {}
}

/// The first shape: a row for each stream. Its key is that of the order.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(name = "open_order")]
struct OpenOrder {
    #[read_model(index)]
    customer: String,
    due: i64,
}

impl Project for OpenOrder {
    type Event = OrderEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<OrderEvent>) {
        match &event.data {
            Placed { customer, amount } => {
                row.customer = customer.to_string();
                row.due += amount;
            }
            Paid { amount, .. } if row.due == *amount => row.delete(), // nothing is due any more
            Paid { amount, .. } => row.due -= amount,
            Cancelled { .. } => row.delete(),
        }
    }
}

/// What both kinds of streams can say, for whoever listens to both.
#[derive(Event, Clone, Debug)]
#[event(transparent)]
enum ShopEvent {
    Customer(CustomerEvent),
    Order(OrderEvent),
}

/// The second shape: a row for each customer, of events in the streams of customers and of their orders. The tag says
/// which row an event concerns.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(name = "account", tag = "customer")]
struct CustomerAccount {
    name: String,
    city: Option<String>,
    orders: i64,
    #[read_model(index)]
    paid: i64,
}

impl Project for CustomerAccount {
    type Event = ShopEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<ShopEvent>) {
        match &event.data {
            ShopEvent::Customer(Registered { name, .. }) => row.name = name.clone(),
            ShopEvent::Customer(Moved { city, .. }) => row.city = Some(city.clone()),
            ShopEvent::Order(Placed { .. }) => row.orders += 1,
            ShopEvent::Order(Paid { amount, .. }) => row.paid += amount,
            ShopEvent::Order(Cancelled { .. }) => row.orders -= 1,
        }
    }
}

/// The third shape: a row for each day, and one for all. An event may concern several rows.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(name = "sales", keys = Sales::keys)]
struct Sales {
    payments: i64,
    amount: i64,
}

impl Sales {
    fn keys(event: &Recorded<OrderEvent>) -> Vec<String> {
        match event.data {
            Paid { .. } => vec![event.recorded_at.to_string()[..10].into(), "all".into()],
            _ => vec![],
        }
    }
}

impl Project for Sales {
    type Event = OrderEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<OrderEvent>) {
        if let Paid { amount, .. } = event.data {
            row.payments += 1;
            row.amount += amount;
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = format!("sqlite://{}", folder.path().join("shop.db").display());
    let store = eventstore::connect(&env::var("DATABASE_URL").unwrap_or(file)).await?;

    // Any number of processes may run the same. Each model is taken in by four shards, side by side.
    let runner = Runner::new(&store)
        .read_model::<OpenOrder>()
        .shards(4)
        .read_model::<CustomerAccount>()
        .shards(4)
        .read_model::<Sales>()
        .start();

    let mut last = Position(0);
    for (n, name) in ["Ann", "Bob", "Cy"].into_iter().enumerate() {
        let customer = Id::<Customer>::new();
        let registered = Registered { customer: customer.clone(), name: name.into() };
        store.append(&customer, Expected::Version(Version(0)), [registered]).await?;
        for amount in 1..=n as i64 + 2 {
            let order = Id::<Order>::new();
            let placed = Placed { customer: customer.clone(), amount };
            let mut events = vec![placed];
            if amount > 1 {
                events.push(Paid { customer: customer.clone(), amount });
            }
            store.append(&order, Expected::Version(Version(0)), events).await?;
        }
        let moved = Moved { customer: customer.clone(), city: "Berlin".into() };
        last = store.append(&customer, Expected::Any, [moved]).await?.last;
    }

    // What was just recorded is in the rows that are read after it.
    let accounts = store.read_model::<CustomerAccount>();
    for (_, row) in accounts.list().after(last).await? {
        println!("{} of {}: {} orders, {} paid", row.name, row.city.unwrap_or_default(), row.orders, row.paid);
    }
    let open = store.read_model::<OpenOrder>().list().after(last).await?;
    println!("{} orders are open, {} due in all", open.len(), open.iter().map(|(_, row)| row.due).sum::<i64>());
    let sales = store.read_model::<Sales>();
    let all = sales.get("all").after(last).await?.unwrap_or_default();
    println!("{} payments, {} in all", all.payments, all.amount);
    // Any model, at any moment, from the log.
    let then = sales.get("all").at_position(Position(last.0 / 2)).await?.unwrap_or_default();
    println!("half-way through the log: {} payments, {} in all", then.payments, then.amount);
    runner.stop().await;
    Ok(())
}
