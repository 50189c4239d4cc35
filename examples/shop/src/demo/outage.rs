//! A service is away for a while: the others go on, and it catches up when it is back.

use eventstore::{BoxError, Bus, ReadInboxes};

use super::{count, eventually, place_order, promised, until};
use crate::{
    order::Status,
    service::Place,
    shop::{SERVICES, Shop},
};

const ORDERS: usize = 50;

pub(super) async fn run(place: &Place) -> Result<(), BoxError> {
    let mut shop = Shop::start(&SERVICES, place).await?;
    let bus = place.bus().await?;
    let inventory = shop.store("inventory")?.clone();
    let first = place_order(shop.store("order")?, "prod-123").await?;
    until(shop.store("order")?, &first, Status::Completed).await?;
    let before = count(&inventory, "reservation.reserved", None).await?;
    shop.stop_one("inventory").await;
    println!("inventory is stopped, and {ORDERS} orders are placed");
    let mut orders = vec![];
    for _ in 0..ORDERS {
        orders.push(place_order(shop.store("order")?, "prod-123").await?);
    }
    let payment = shop.store("payment")?;
    for order in &orders {
        eventually("an order is paid", async || Ok(count(payment, "payment.completed", Some(order)).await? == 1))
            .await?;
    }
    let behind = async || Ok(lag(&bus, &inventory).await? >= ORDERS as u64);
    eventually("the payments wait on the bus", behind).await?;
    promised(true, &format!("inventory is {} payments behind", lag(&bus, &inventory).await?))?;
    promised(count(&inventory, "reservation.reserved", None).await? == before, "nothing is reserved meanwhile")?;

    println!("inventory is started");
    shop.start_one("inventory", place).await?;
    for order in &orders {
        until(shop.store("order")?, order, Status::Completed).await?;
    }
    promised(true, &format!("all {ORDERS} orders are confirmed and shipped"))?;
    eventually("inventory has caught up", async || Ok(lag(&bus, &inventory).await? == 0)).await?;
    promised(true, "inventory is no payment behind")?;
    let reserved = count(&inventory, "reservation.reserved", None).await? - before;
    promised(reserved == ORDERS as u64, "each order is reserved once")?;
    shop.stop().await;
    Ok(())
}

/// How many messages of the topic `payments` inventory has not recorded.
async fn lag(bus: &Bus, inventory: &eventstore::Store) -> Result<u64, BoxError> {
    let mut lag = 0;
    for at in inventory.inboxes().offsets("payments").await? {
        lag += bus.source.lag(&at.topic, &at.group, at.partition, at.offset.as_ref()).await?;
    }
    Ok(lag)
}
