//! An order is fulfilled step by step, by a saga with declared steps: stock, payment, shipping. One order succeeds; one
//! fails at a card that has expired; one is not shipped in time; and of one the refund is refused, until an operator has
//! mended that. Whatever was done is undone in reverse order.
//!
//! ```sh
//! cargo run --example order_fulfilment
//! ```

use std::{error::Error, time::Duration};

use eventstore::{BoxError, Expected, SagaStatus, StreamId, prelude::*};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

type Any = Box<dyn Error>;

// An order, the stock of a warehouse, and a card.

#[derive(Event, Clone, Debug, PartialEq)]
enum OrderEvent {
    Placed { order: Id<Order>, card: Id<Card>, cents: i64, address: String },
    Completed,
    Cancelled { reason: String },
}

#[derive(Aggregate)]
struct Order {
    over: bool,
}

impl Evolve for Order {
    type Event = OrderEvent;

    fn evolve(&mut self, event: OrderEvent) {
        self.over = !matches!(event, OrderEvent::Placed { .. });
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Complete;

#[derive(Clone, Debug, PartialEq)]
struct Cancel(String);

impl Decide<Complete> for Order {
    fn decide(&self, Complete: Complete) -> Decision<Self> {
        ensure!(!self.over, "the order is over");
        Ok(vec![OrderEvent::Completed])
    }
}

impl Decide<Cancel> for Order {
    fn decide(&self, Cancel(reason): Cancel) -> Decision<Self> {
        ensure!(!self.over, "the order is over");
        Ok(vec![OrderEvent::Cancelled { reason }])
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
enum StockEvent {
    Delivered { pieces: i64 },
    Reserved { order: Id<Order> },
    Released { order: Id<Order> },
}

#[derive(Aggregate)]
struct Stock {
    pieces: i64,
    reserved: Vec<Id<Order>>,
}

impl Evolve for Stock {
    type Event = StockEvent;

    fn evolve(&mut self, event: StockEvent) {
        match event {
            StockEvent::Delivered { pieces } => self.pieces += pieces,
            StockEvent::Reserved { order } => {
                self.pieces -= 1;
                self.reserved.push(order);
            }
            StockEvent::Released { order } => {
                self.pieces += 1;
                self.reserved.retain(|other| *other != order);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Reserve(Id<Order>);

#[derive(Clone, Debug, PartialEq)]
struct Release(Id<Order>);

impl Decide<Reserve> for Stock {
    fn decide(&self, Reserve(order): Reserve) -> Decision<Self> {
        ensure!(self.pieces > 0, "out of stock");
        Ok(vec![StockEvent::Reserved { order }])
    }
}

impl Decide<Release> for Stock {
    fn decide(&self, Release(order): Release) -> Decision<Self> {
        // There may be nothing to undo.
        Ok(if self.reserved.contains(&order) { vec![StockEvent::Released { order }] } else { vec![] })
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
enum CardEvent {
    Expired,
    Blocked,
    Unblocked,
    Charged { cents: i64 },
    Refunded { cents: i64 },
}

#[derive(Aggregate)]
struct Card {
    expired: bool,
    blocked: bool,
    charged: i64,
}

impl Evolve for Card {
    type Event = CardEvent;

    fn evolve(&mut self, event: CardEvent) {
        match event {
            CardEvent::Expired => self.expired = true,
            CardEvent::Blocked => self.blocked = true,
            CardEvent::Unblocked => self.blocked = false,
            CardEvent::Charged { cents } => self.charged += cents,
            CardEvent::Refunded { cents } => self.charged -= cents,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Charge(i64);

#[derive(Clone, Debug, PartialEq)]
struct Refund(i64);

impl Decide<Charge> for Card {
    fn decide(&self, Charge(cents): Charge) -> Decision<Self> {
        ensure!(!self.expired, "the card has expired");
        Ok(vec![CardEvent::Charged { cents }])
    }
}

impl Decide<Refund> for Card {
    fn decide(&self, Refund(cents): Refund) -> Decision<Self> {
        ensure!(!self.blocked, "the card is blocked");
        Ok(if self.charged >= cents { vec![CardEvent::Refunded { cents }] } else { vec![] })
    }
}

// The service for shipping: it reads its command messages, and records what it does. There is no van to nowhere.

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "shipping.ship")]
struct Ship {
    order: Id<Order>,
    address: String,
}

#[derive(Event, Clone, Debug, PartialEq)]
enum ShippingCommand {
    #[event(name = "command.shipping.ship")]
    Ship { order: Id<Order>, address: String },
}

#[derive(Event, Clone, Debug, PartialEq)]
enum ShippingEvent {
    Sent { order: Id<Order> },
}

struct Shipping(Store);

impl Subscription for Shipping {
    const NAME: &'static str = "shipping";
    type Event = ShippingCommand;

    async fn handle(&self, events: &[&Recorded<ShippingCommand>]) -> Result<(), BoxError> {
        for event in events {
            let ShippingCommand::Ship { order, address } = &event.data;
            if address != "nowhere" {
                let van = StreamId::new("van", order.key());
                let sent = [ShippingEvent::Sent { order: order.clone() }];
                // The id of the command message: a message that comes twice is answered once.
                self.0.append(van, Expected::Any, sent).command_id(event.id).caused_by(event).await?;
            }
        }
        Ok(())
    }
}

// The saga: its data, and its steps.

#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
enum ShopEvent {
    Order(OrderEvent),
    Shipping(ShippingEvent),
}

#[derive(Saga, Serialize, Deserialize, Clone, Debug)]
#[saga(steps, key = order_of, from = "beginning")]
struct OrderFulfilment {
    order: Id<Order>,
    card: Id<Card>,
    cents: i64,
    address: String,
}

fn order_of(event: &Recorded<ShopEvent>) -> Option<String> {
    match &event.data {
        ShopEvent::Order(OrderEvent::Placed { order, .. }) | ShopEvent::Shipping(ShippingEvent::Sent { order }) => {
            Some(order.key().into())
        }
        ShopEvent::Order(_) => None,
    }
}

impl Steps for OrderFulfilment {
    type Event = ShopEvent;

    fn begin(event: &Recorded<ShopEvent>) -> Option<Self> {
        let ShopEvent::Order(OrderEvent::Placed { order, card, cents, address }) = event.data.clone() else {
            return None;
        };
        Some(Self { order, card, cents, address })
    }

    fn steps(&self) -> Plan<ShopEvent> {
        let (order, address) = (|| self.order.clone(), self.address.clone());
        Plan::new()
            .step("stock", send(warehouse(), Reserve(order())))
            .undo(send(warehouse(), Release(order())))
            .step("payment", send(&self.card, Charge(self.cents)))
            .undo(send(&self.card, Refund(self.cents)))
            .step("shipping", ask("shipping", Ship { order: order(), address }))
            .done(|event| matches!(event, ShopEvent::Shipping(ShippingEvent::Sent { .. })))
            .within(Duration::from_millis(500))
    }

    fn ended(&self, end: &End) -> Commands {
        match end {
            End::Done => send(&self.order, Complete),
            End::Undone { step, reason } => send(&self.order, Cancel(format!("{step}: {reason}"))),
        }
    }
}

fn warehouse() -> Id<Stock> {
    "berlin".into()
}

/// Waits until an order has a status, and prints its steps.
async fn until(store: &Store, order: &str, status: SagaStatus) -> Result<(), Any> {
    let orders = store.sagas::<OrderFulfilment>();
    let there = async {
        loop {
            match orders.get(order).await? {
                Some(order) if order.status == status => return Ok::<_, Any>(order),
                _ => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let order = timeout(Duration::from_secs(20), there).await.map_err(|_| format!("{order} is not {status:?}"))??;
    println!("order {}: {:?} {}", order.key, order.status, order.error.unwrap_or_default());
    for step in order.plan.into_iter().flat_map(|plan| plan.steps) {
        println!("  {:9} {:?} {}", step.name, step.status, step.reason.unwrap_or_default());
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let store = eventstore::connect(&format!("sqlite://{}", folder.path().join("shop.db").display())).await?;
    let runner = Runner::new(&store).lease(Duration::from_millis(500)).saga::<OrderFulfilment>();
    let runner = runner.subscription(Shipping(store.clone())).from_beginning().start();

    let card = |key: &str| Id::<Card>::from(key);
    store.append(warehouse(), Expected::Any, [StockEvent::Delivered { pieces: 10 }]).await?;
    store.append(card("old"), Expected::Any, [CardEvent::Expired]).await?;
    let orders = [
        ("1", "good", "Main Street 1"),
        ("2", "old", "Main Street 2"),
        ("3", "good", "nowhere"),
        ("4", "lost", "nowhere"),
    ];
    for (order, card, address) in orders {
        let (order, card, cents, address) = (Id::from(order), card.into(), 500, address.into());
        let placed = OrderEvent::Placed { order: order.clone(), card, cents, address };
        store.append(order, Expected::Any, [placed]).await?;
    }
    // The last card is blocked once it is charged: the refund will be refused.
    let charged = async {
        while store.load(&card("lost")).await?.state.charged == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        Ok::<_, Any>(())
    };
    timeout(Duration::from_secs(20), charged).await??;
    store.append(card("lost"), Expected::Any, [CardEvent::Blocked]).await?;

    until(&store, "1", SagaStatus::Finished).await?;
    until(&store, "2", SagaStatus::Compensated).await?;
    until(&store, "3", SagaStatus::Compensated).await?;
    until(&store, "4", SagaStatus::Parked).await?;
    println!("an operator has the card unblocked, and order 4 tried again");
    store.append(card("lost"), Expected::Any, [CardEvent::Unblocked]).await?;
    store.sagas::<OrderFulfilment>().retry("4").await?;
    until(&store, "4", SagaStatus::Compensated).await?;
    runner.stop().await;

    let stock = store.load(&warehouse()).await?.state;
    let (good, lost) = (store.load(&card("good")).await?.state, store.load(&card("lost")).await?.state);
    let ends: Vec<Recorded<OrderEvent>> = store.read().events().try_collect().await?;
    let ends: Vec<_> = ends.into_iter().filter(|event| !matches!(event.data, OrderEvent::Placed { .. })).collect();
    println!("{} pieces in stock; the cards are charged {} and {}", stock.pieces, good.charged, lost.charged);
    if (stock.pieces, stock.reserved.len(), good.charged, lost.charged, ends.len()) != (9, 1, 500, 0, 4) {
        return Err(format!("something was not undone, or done twice: {ends:?}").into());
    }
    println!("each order is done, or all of it is undone");
    Ok(())
}
