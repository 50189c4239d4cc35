//! Messages are published again, and read again from the beginning, and a service is killed: each payment happens once.

use std::time::Duration;

use eventstore::{BoxError, Bus, Envelope, Outcome, Processors, Store};
use futures::StreamExt;
use tokio::{runtime::Runtime, time::timeout};

use super::{count, eventually, place_order, promised, until};
use crate::{
    order::Status,
    service::Place,
    shop::{SERVICES, Shop, start},
};

const ORDERS: u64 = 200;

pub(super) async fn run(place: &Place) -> Result<(), BoxError> {
    let others: Vec<&str> = SERVICES.into_iter().filter(|name| *name != "payment").collect();
    let shop = Shop::start(&others, place).await?;
    let (payment, bus) = place.open("payment").await?;
    let mut crashing = Crashing::start("payment", place).await?;
    let before = count(&payment, "payment.completed", None).await?;
    println!("{ORDERS} orders are placed, and payment is killed while it works on them");
    let mut orders = vec![];
    for n in 0..ORDERS {
        orders.push(place_order(shop.store("order")?, "prod-456").await?);
        if n % 50 == 25 {
            eventually(
                "payment works",
                async || Ok(count(&payment, "payment.completed", None).await? > before + n / 2),
            )
            .await?;
            drop(crashing);
            crashing = Crashing::start("payment", place).await?;
        }
    }
    for order in &orders {
        until(shop.store("order")?, order, Status::Completed).await?;
    }
    promised(each_paid_once(&payment, &orders).await?, "each order is paid once")?;

    let messages = created(&bus, &orders).await?;
    println!("the {} messages order.created are published again, with their ids", messages.len());
    promised(messages.len() as u64 == ORDERS, "the topic has one message of each order")?;
    let published = bus.publisher.publish("orders", &messages).await;
    promised(published.iter().all(|outcome| matches!(outcome, Outcome::Done)), "the bus has confirmed them")?;

    println!("payment reads the topic again, from its first message");
    let recorded = count(&payment, "orders:order.created", None).await?;
    Processors::new(&payment).rebuild("inbox:orders").await?.wait().await?;
    promised(count(&payment, "orders:order.created", None).await? == recorded, "no message is recorded again")?;
    let again = place_order(shop.store("order")?, "prod-456").await?;
    until(shop.store("order")?, &again, Status::Completed).await?;
    promised(each_paid_once(&payment, &orders).await?, "no order is paid again")?;
    drop(crashing);
    shop.stop().await;
    Ok(())
}

/// A service in a runtime of its own. When it is dropped, the service ends in the middle of what it does, as in a crash:
/// between a commit and what follows it, too.
struct Crashing(Option<Runtime>);

impl Crashing {
    async fn start(name: &'static str, place: &Place) -> Result<Self, BoxError> {
        let (runtime, place) = (Runtime::new()?, place.clone());
        let started = runtime.spawn(async move { start(name, &place).await });
        let crashing = Self(Some(runtime));
        started.await??;
        Ok(crashing)
    }
}

impl Drop for Crashing {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn each_paid_once(payment: &Store, orders: &[String]) -> Result<bool, BoxError> {
    for order in orders {
        if count(payment, "payment.completed", Some(order)).await? != 1 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The messages that say that these orders are created.
async fn created(bus: &Bus, orders: &[String]) -> Result<Vec<Envelope>, BoxError> {
    let mut found = vec![];
    let abilities = bus.source.subscribe("orders", "demo").await?;
    for partition in 0..abilities.partitions {
        let mut deliveries = bus.source.read("orders", "demo", partition, None).await?;
        // The topic has no end: it is at its end when nothing comes for a while.
        while let Ok(Some(delivery)) = timeout(Duration::from_secs(1), deliveries.next()).await {
            if let Ok(message) = delivery?.message
                && message.kind == "order.created"
                && orders.contains(&message.key)
            {
                found.push(message);
            }
        }
    }
    Ok(found)
}
