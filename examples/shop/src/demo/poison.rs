//! A message that payment cannot read: its order waits, the others go on. A mended release reads it.

use eventstore::{BoxError, Envelope, Outcome, Processors, Uuid, prelude::*};
use serde_json::json;

use super::{count, eventually, place_order, promised, until};
use crate::{
    contracts::Item,
    order::Status,
    payment::{self, Orders, Wish},
    service::Place,
    shop::{SERVICES, Shop},
};

const OTHERS: usize = 20;

/// The messages of orders, as the mended release of payment reads them: it does not need to know the customer.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "order", topic = "orders", rename_all = "camelCase")]
enum MendedOrderMessage {
    Created { items: Vec<Item>, total_cents: i64 },
    Confirmed,
    Cancelled,
}

impl Orders for MendedOrderMessage {
    fn wish(&self) -> Wish {
        match self {
            Self::Created { items, total_cents } => Wish::Pay(items.clone(), *total_cents),
            Self::Confirmed => Wish::Nothing,
            Self::Cancelled => Wish::PayBack,
        }
    }
}

pub(super) async fn run(place: &Place) -> Result<(), BoxError> {
    let mut shop = Shop::start(&SERVICES, place).await?;
    let payment = shop.store("payment")?.clone();
    let dead_letters = Processors::new(&payment).dead_letters("pay_orders");
    let poisoned = Uuid::now_v7().simple().to_string();
    println!("another program publishes an order.created without a customer, and two more messages of that order");
    let bodies = [
        ("order.created", json!({ "items": [{ "productId": "prod-456", "quantity": 1 }], "totalCents": 500 })),
        ("order.confirmed", json!(null)),
        ("order.cancelled", json!({ "reason": "a mistake" })),
    ];
    let messages = bodies.map(|(kind, body)| {
        Envelope::new(Uuid::now_v7(), "another program", kind, &poisoned, body.to_string().into_bytes())
    });
    let published = place.bus().await?.publisher.publish("orders", &messages).await;
    promised(published.iter().all(|outcome| matches!(outcome, Outcome::Done)), "the bus has confirmed them")?;

    println!("{OTHERS} other orders are placed");
    for _ in 0..OTHERS {
        let order = place_order(shop.store("order")?, "prod-123").await?;
        until(shop.store("order")?, &order, Status::Completed).await?;
    }
    promised(true, &format!("{OTHERS} other orders are shipped"))?;
    let waiting = async || {
        let letters = dead_letters.list().await?;
        Ok(letters.iter().filter(|letter| letter.stream.key() == poisoned).count() == 3)
    };
    eventually("the order waits", waiting).await?;
    promised(true, "the order waits as three dead letters, of which the first says why:")?;
    let first = dead_letters.first().await?.into_iter().find(|letter| letter.stream.key() == poisoned);
    let first = first.ok_or("the dead letter is gone")?;
    println!("    {}: {}", first.name, first.error);

    println!("a mended release of payment is started, and an operator has the order tried again");
    shop.stop_one("payment").await;
    shop.services.push(payment::start_reading::<MendedOrderMessage>(place).await?);
    dead_letters.retry(&first.key).await?;
    let empty = async || Ok(dead_letters.list().await?.is_empty());
    eventually("no dead letter is left", empty).await?;
    promised(count(&payment, "payment.completed", Some(&poisoned)).await? == 1, "the order is paid, once")?;
    promised(count(&payment, "payment.refunded", Some(&poisoned)).await? == 1, "and paid back, once")?;
    shop.stop().await;
    Ok(())
}
