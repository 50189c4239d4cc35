//! The bank refuses a payment: the order is cancelled, nothing is reserved, and the customer hears of it once.

use eventstore::BoxError;

use super::{count, eventually, place_order, promised, until};
use crate::{
    inventory::StockRow,
    notification::Mail,
    order::Status,
    service::Place,
    shop::{SERVICES, Shop},
};

pub(super) async fn run(place: &Place) -> Result<(), BoxError> {
    let shop = Shop::start(&SERVICES, place).await?;
    println!("an order of 99.13, which the bank refuses");
    let order = place_order(shop.store("order")?, "prod-refused").await?;
    until(shop.store("order")?, &order, Status::Cancelled).await?;
    promised(
        count(shop.store("payment")?, "payment.failed", Some(&order)).await? == 1,
        "the payment has failed, once",
    )?;
    promised(count(shop.store("order")?, "order.cancelled", Some(&order)).await? == 1, "the order is cancelled, once")?;

    let inventory = shop.store("inventory")?;
    let closed = async || Ok(count(inventory, "reservation.closed", Some(&order)).await? == 1);
    eventually("inventory has heard of it", closed).await?;
    let head = inventory.head().await?;
    let stock = inventory.read_model::<StockRow>().get("prod-refused").after(head).await?;
    promised(stock.is_some_and(|stock| stock.pieces == stock.delivered), "the stock is as before")?;

    let notification = shop.store("notification")?;
    let failed = format!("{order}.payment_failed");
    let sent = async || Ok(count(notification, "notification.sent", Some(&failed)).await? == 1);
    eventually("a mail is sent", sent).await?;
    let head = notification.head().await?;
    let mails = notification.read_model::<Mail>().list().filter("order", &*order).after(head).await?;
    let failed = mails.iter().filter(|(_, mail)| mail.about == "payment_failed").count();
    promised(failed == 1, "one mail says that the payment has failed")?;
    shop.stop().await;
    Ok(())
}
