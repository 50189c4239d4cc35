//! An order that is not paid: the customer is reminded once, and not before the time. The clock is moved.

use std::time::Duration;

use eventstore::BoxError;

use super::{count, eventually, place_order, promised, until};
use crate::{
    notification::REMIND_AFTER,
    order::Status,
    service::Place,
    shop::{SERVICES, Shop},
};

const MINUTE: Duration = Duration::from_secs(60);

pub(super) async fn run(place: &Place) -> Result<(), BoxError> {
    if !place.is_in_memory() {
        return Err("the clock of a database cannot be moved: this demo runs in memory".into());
    }
    let others: Vec<&str> = SERVICES.into_iter().filter(|name| *name != "payment").collect();
    let mut shop = Shop::start(&others, place).await?;
    println!("payment does not run, and an order is placed");
    let unpaid = place_order(shop.store("order")?, "prod-123").await?;
    told(&shop, &unpaid, "created").await?;

    println!("the clock is moved: a minute less than the time until the reminder");
    promised(reminders(&shop, place, REMIND_AFTER - MINUTE, &unpaid).await? == 0, "no mail reminds of it yet")?;
    println!("the clock is moved by two minutes more");
    promised(reminders(&shop, place, 2 * MINUTE, &unpaid).await? == 1, "one mail reminds of it")?;
    println!("the clock is moved by a day");
    promised(reminders(&shop, place, 24 * 60 * MINUTE, &unpaid).await? == 1, "no second mail reminds of it")?;

    println!("payment is started, and another order is placed and paid");
    shop.start_one("payment", place).await?;
    let paid = place_order(shop.store("order")?, "prod-123").await?;
    until(shop.store("order")?, &paid, Status::Completed).await?;
    until(shop.store("order")?, &unpaid, Status::Completed).await?;
    told(&shop, &paid, "shipped").await?;
    promised(reminders(&shop, place, 24 * 60 * MINUTE, &paid).await? == 0, "a day later, no mail reminds of that one")?;
    shop.stop().await;
    Ok(())
}

/// Waits until a mail is sent.
async fn told(shop: &Shop, order: &str, about: &str) -> Result<(), BoxError> {
    let (store, mail) = (shop.store("notification")?, format!("{order}.{about}"));
    eventually("a mail is sent", async || Ok(count(store, "notification.sent", Some(&mail)).await? == 1)).await
}

/// Moves the clock, waits until notification has done all that is due, and counts the reminders of an order.
async fn reminders(shop: &Shop, place: &Place, time: Duration, order: &str) -> Result<u64, BoxError> {
    place.clock.advance(time);
    shop.service("notification")?.running.settle().await?;
    count(shop.store("notification")?, "notification.sent", Some(&format!("{order}.unpaid"))).await
}
