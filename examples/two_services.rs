//! Two services that talk by messages: orders are placed in one, shipped by the other, and completed in the first. Each
//! service is a process with an SQLite file of its own; the bus between them is a third file. Processes are killed in the
//! middle and started again, and in the end each order was shipped once and completed once.
//!
//! ```sh
//! cargo run --example two_services                 # 200 orders, 6 kills
//! cargo run --example two_services -- 1000 20      # 1,000 orders, 20 kills
//! ```

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use eventstore::{Bus, StartFrom, Uuid, prelude::*};
use futures::TryStreamExt;
use tokio::time::sleep;

type Any = Box<dyn Error>;

// The published languages: what the services say to each other. They are crates of their own in a larger system.

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "order", topic = "orders", rename_all = "camelCase")]
enum OrderMessage {
    Placed { order_id: String, item: String },
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "shipment", topic = "shipments", rename_all = "camelCase")]
enum ShipmentMessage {
    Sent { order_id: String },
}

// The service of orders.

#[derive(Event, Clone, Debug, PartialEq)]
enum OrderEvent {
    Placed { item: String },
    Completed,
}

#[derive(Aggregate)]
struct Order {
    placed: bool,
    completed: bool,
}

impl Evolve for Order {
    type Event = OrderEvent;

    fn evolve(&mut self, event: OrderEvent) {
        match event {
            OrderEvent::Placed { .. } => self.placed = true,
            OrderEvent::Completed => self.completed = true,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Place {
    item: String,
}

#[derive(Clone, Debug, PartialEq)]
struct Complete;

impl Decide<Place> for Order {
    fn decide(&self, Place { item }: Place) -> Decision<Self> {
        ensure!(!self.placed, "the order is placed already");
        Ok(vec![OrderEvent::Placed { item }])
    }
}

impl Decide<Complete> for Order {
    fn decide(&self, Complete: Complete) -> Decision<Self> {
        ensure!(self.placed && !self.completed, "the order is not open");
        Ok(vec![OrderEvent::Completed])
    }
}

impl Publish for OrderMessage {
    type From = OrderEvent;

    fn publish(event: &Recorded<OrderEvent>) -> Vec<Self> {
        let order_id = event.stream.key().to_owned();
        match &event.data {
            OrderEvent::Placed { item } => vec![Self::Placed { order_id, item: item.clone() }],
            OrderEvent::Completed => vec![], // private
        }
    }
}

/// Completes an order once it is shipped.
struct CompleteShippedOrders;

impl Reactor for CompleteShippedOrders {
    const NAME: &'static str = "complete_shipped_orders";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = ShipmentMessage;

    fn react(&self, event: &Recorded<ShipmentMessage>) -> Commands {
        let ShipmentMessage::Sent { order_id } = &event.data;
        send(Id::<Order>::from(order_id.as_str()), Complete)
    }
}

async fn orders(folder: &Path, orders: usize) -> Result<(), Any> {
    let (store, bus) = open(folder, "orders").await?;
    let _running = Runner::new(&store)
        .lease(Duration::from_millis(500))
        .relay::<OrderMessage>(&bus)
        .inbox::<ShipmentMessage>(&bus)
        .reactor(CompleteShippedOrders)
        .start();
    for n in 0..orders {
        // The command has an id, so that a process that was killed places no order twice.
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("place {n}").as_bytes());
        let order = Id::<Order>::from(format!("o{n}"));
        store.execute(order, Place { item: format!("book {}", n % 10) }).command_id(id).await?;
        sleep(Duration::from_millis(3)).await;
    }
    std::future::pending().await
}

// The service of shipping.

#[derive(Event, Clone, Debug, PartialEq)]
enum ShipmentEvent {
    Prepared { item: String },
    Sent,
}

#[derive(Aggregate)]
struct Shipment {
    sent: bool,
}

impl Evolve for Shipment {
    type Event = ShipmentEvent;

    fn evolve(&mut self, event: ShipmentEvent) {
        self.sent |= event == ShipmentEvent::Sent;
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Ship {
    item: String,
}

impl Decide<Ship> for Shipment {
    fn decide(&self, Ship { item }: Ship) -> Decision<Self> {
        ensure!(!self.sent, "it is sent already");
        Ok(vec![ShipmentEvent::Prepared { item }, ShipmentEvent::Sent])
    }
}

impl Publish for ShipmentMessage {
    type From = ShipmentEvent;

    fn publish(event: &Recorded<ShipmentEvent>) -> Vec<Self> {
        match event.data {
            ShipmentEvent::Sent => vec![Self::Sent { order_id: event.stream.key().to_owned() }],
            ShipmentEvent::Prepared { .. } => vec![],
        }
    }
}

/// Ships what was ordered.
struct ShipOrders;

impl Reactor for ShipOrders {
    const NAME: &'static str = "ship_orders";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = OrderMessage;

    fn react(&self, event: &Recorded<OrderMessage>) -> Commands {
        let OrderMessage::Placed { order_id, item } = &event.data;
        send(Id::<Shipment>::from(order_id.as_str()), Ship { item: item.clone() })
    }
}

async fn shipping(folder: &Path) -> Result<(), Any> {
    let (store, bus) = open(folder, "shipping").await?;
    let _running = Runner::new(&store)
        .lease(Duration::from_millis(500))
        .inbox::<OrderMessage>(&bus)
        .reactor(ShipOrders)
        .relay::<ShipmentMessage>(&bus)
        .start();
    std::future::pending().await
}

async fn open(folder: &Path, service: &str) -> Result<(Store, Bus), Any> {
    let url = |name: &str| format!("sqlite://{}", folder.join(name).display());
    let store = eventstore::connect(&url(&format!("{service}.db"))).await?.with_source(service);
    Ok((store, eventstore::connect_bus(&url("bus.db")).await?))
}

// The two processes, and what is done to them.

struct Service {
    name: &'static str,
    folder: PathBuf,
    orders: usize,
    child: Child,
}

impl Service {
    fn start(name: &'static str, folder: &Path, orders: usize) -> Result<Self, Any> {
        Ok(Self { name, folder: folder.into(), orders, child: spawn(name, folder, orders)? })
    }

    /// Kills the process, which notices nothing, and starts it again.
    fn kill(&mut self) -> Result<(), Any> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(self.name, &self.folder, self.orders)?;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(service: &str, folder: &Path, orders: usize) -> Result<Child, Any> {
    let mut command = Command::new(env::current_exe()?);
    Ok(command.arg(service).arg(folder).arg(orders.to_string()).stdin(Stdio::null()).spawn()?)
}

/// How often each order was shipped, and how often completed.
async fn counted(folder: &Path) -> Result<BTreeMap<String, (u32, u32)>, Any> {
    let mut counts = BTreeMap::<String, (u32, u32)>::new();
    // First what comes last: an order that is completed was shipped before.
    let (orders, _) = open(folder, "orders").await?;
    let mut completed = orders.read().names(["order.completed"]).raw();
    while let Some(event) = completed.try_next().await? {
        counts.entry(event.stream.key().to_owned()).or_default().1 += 1;
    }
    let (shipping, _) = open(folder, "shipping").await?;
    let mut sent = shipping.read().names(["shipment.sent"]).raw();
    while let Some(event) = sent.try_next().await? {
        counts.entry(event.stream.key().to_owned()).or_default().0 += 1;
    }
    Ok(counts)
}

async fn both(orders: usize, kills: usize) -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    // Made before the processes, so that they do not both make it at once.
    eventstore::connect_bus(&format!("sqlite://{}", folder.path().join("bus.db").display())).await?;
    let mut services =
        [Service::start("orders", folder.path(), orders)?, Service::start("shipping", folder.path(), orders)?];
    println!("two services run, and {orders} orders are placed");
    for kill in 0..kills {
        sleep(Duration::from_millis(150 + 70 * (kill as u64 % 7))).await;
        let service = &mut services[kill % 2];
        service.kill()?;
        println!("{} was killed, and is started again", service.name);
    }
    let start = Instant::now();
    let counts = loop {
        let counts = counted(folder.path()).await?;
        let done = counts.values().filter(|(_, completed)| *completed > 0).count();
        if done == orders {
            break counts;
        }
        if start.elapsed() > Duration::from_secs(60) {
            return Err(format!("{done} of {orders} orders are completed after a minute").into());
        }
        sleep(Duration::from_millis(100)).await;
    };
    drop(services);
    for (order, times) in &counts {
        if *times != (1, 1) {
            return Err(format!("{order} was shipped and completed {times:?} times").into());
        }
    }
    println!("{} orders: each was shipped once and completed once", counts.len());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Any> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |text: Option<&String>, otherwise| text.map_or(Ok(otherwise), |text| text.parse::<usize>());
    match (arguments.first().map(String::as_str), arguments.get(1)) {
        (Some("orders"), Some(folder)) => orders(Path::new(folder), number(arguments.get(2), 0)?).await,
        (Some("shipping"), Some(folder)) => shipping(Path::new(folder)).await,
        _ => both(number(arguments.first(), 200)?, number(arguments.get(1), 6)?).await,
    }
}
