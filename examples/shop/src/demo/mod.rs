//! Demonstrations: each prints what it does, and fails if the end is not as promised.

mod outage;
mod poison;
mod refused;
mod twice;
mod unpaid;

use std::time::Duration;

use eventstore::{BoxError, Uuid, prelude::*};
use tokio::time::{Instant, sleep};

use crate::{
    contracts::Item,
    order::{Order, PlaceOrder, Status},
    service::Place,
};

/// The names of all demonstrations.
pub const DEMOS: [&str; 5] = ["refused", "outage", "twice", "poison", "unpaid"];

/// Runs a demonstration in a shop of its own.
pub async fn demo(name: &str, place: &Place) -> Result<(), BoxError> {
    match name {
        "refused" => refused::run(place).await,
        "outage" => outage::run(place).await,
        "twice" => twice::run(place).await,
        "poison" => poison::run(place).await,
        "unpaid" => unpaid::run(place).await,
        _ => Err(format!("there is no demo `{name}`; there are {}", DEMOS.join(", ")).into()),
    }
}

/// Places an order of one piece, and returns its id.
async fn place_order(orders: &Store, product: &str) -> Result<String, BoxError> {
    let id = Uuid::now_v7().simple().to_string();
    let items = vec![Item { product_id: product.into(), quantity: 1 }];
    let place = PlaceOrder { customer_id: "cust-456".into(), items };
    orders.execute(Id::<Order>::from(&*id), place).await?;
    Ok(id)
}

/// Waits until an order has a status.
async fn until(orders: &Store, order: &str, status: Status) -> Result<(), BoxError> {
    let what = format!("order {order} is {status:?}");
    eventually(&what, async || Ok(orders.load(Id::<Order>::from(order)).await?.state.status() == status)).await
}

/// Waits until something holds, for a minute at most.
async fn eventually(what: &str, holds: impl AsyncFn() -> Result<bool, BoxError>) -> Result<(), BoxError> {
    let start = Instant::now();
    while !holds().await? {
        if start.elapsed() > Duration::from_secs(60) {
            return Err(format!("not after a minute: {what}").into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Prints what holds, or fails.
fn promised(holds: bool, what: &str) -> Result<(), BoxError> {
    if !holds {
        return Err(format!("not as promised: {what}").into());
    }
    println!("  ✓ {what}");
    Ok(())
}

/// How many events of a name are in a log; of one order, if it is given.
async fn count(store: &Store, name: &'static str, of: Option<&str>) -> Result<u64, BoxError> {
    let mut read = store.read().names([name]);
    if let Some(order) = of {
        let (category, _) = name.split_once('.').unwrap_or_default();
        read = read.stream(eventstore::StreamId::new(category, order));
    }
    Ok(read.count().await?)
}
