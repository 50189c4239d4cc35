//! An order is fulfilled step by step: a saga with declared steps.

use std::time::Duration;

use eventstore::{SagaStatus, Stepping, StreamId, prelude::*, testing::Simulation};
use serde::{Deserialize, Serialize};

/// Our own order, stock and invoice.
#[derive(Event, Clone, Debug, PartialEq)]
pub enum OrderEvent {
    Placed { order: Id<Order>, warehouse: Id<Stock>, total: i64 },
    Completed,
    Cancelled { reason: String },
}

#[derive(Aggregate)]
pub struct Order {
    pub over: bool,
}

impl Evolve for Order {
    type Event = OrderEvent;

    fn evolve(&mut self, event: OrderEvent) {
        self.over = !matches!(event, OrderEvent::Placed { .. });
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum OrderCommand {
    Place { order: Id<Order>, warehouse: Id<Stock>, total: i64 },
    Complete,
    Cancel { reason: String },
}

impl Decide<OrderCommand> for Order {
    fn decide(&self, command: OrderCommand) -> Decision<Self> {
        ensure!(!self.over, "the order is over");
        Ok(vec![match command {
            OrderCommand::Place { order, warehouse, total } => OrderEvent::Placed { order, warehouse, total },
            OrderCommand::Complete => OrderEvent::Completed,
            OrderCommand::Cancel { reason } => OrderEvent::Cancelled { reason },
        }])
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum StockEvent {
    Delivered { pieces: u32 },
    Reserved { order: Id<Order> },
    Released { order: Id<Order> },
}

#[derive(Aggregate)]
pub struct Stock {
    pub pieces: u32,
    pub reserved: Vec<Id<Order>>,
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
pub enum StockCommand {
    Deliver { pieces: u32 },
    Reserve { order: Id<Order> },
    Release { order: Id<Order> },
}

impl Decide<StockCommand> for Stock {
    fn decide(&self, command: StockCommand) -> Decision<Self> {
        Ok(match command {
            StockCommand::Deliver { pieces } => vec![StockEvent::Delivered { pieces }],
            StockCommand::Reserve { order } => {
                ensure!(self.pieces > 0, "out of stock");
                vec![StockEvent::Reserved { order }]
            }
            StockCommand::Release { order } if self.reserved.contains(&order) => vec![StockEvent::Released { order }],
            // There may be nothing to undo.
            StockCommand::Release { .. } => vec![],
        })
    }
}

/// What the service for payments is asked, and says.
#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "payments.charge")]
pub struct Charge {
    pub order: Id<Order>,
    pub cents: i64,
}

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "payments.refund")]
pub struct Refund {
    pub order: Id<Order>,
    pub payment: Option<String>,
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum PaymentEvent {
    Charged { order: Id<Order>, payment: String },
    Declined { order: Id<Order>, reason: String },
}

/// What the service for shipping is asked, and says.
#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "shipping.ship")]
pub struct Ship {
    pub order: Id<Order>,
}

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "shipping.recall")]
pub struct Recall {
    pub order: Id<Order>,
}

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "mail.thank")]
pub struct Thank {
    pub order: Id<Order>,
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum ShippingEvent {
    Sent { order: Id<Order> },
    Failed { order: Id<Order>, reason: String },
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum InvoiceEvent {
    Issued { total: i64 },
}

#[derive(Aggregate)]
pub struct Invoice {
    pub issued: bool,
}

impl Evolve for Invoice {
    type Event = InvoiceEvent;

    fn evolve(&mut self, _: InvoiceEvent) {
        self.issued = true;
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Issue {
    pub total: i64,
}

impl Decide<Issue> for Invoice {
    fn decide(&self, Issue { total }: Issue) -> Decision<Self> {
        Ok(if self.issued { vec![] } else { vec![InvoiceEvent::Issued { total }] })
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
pub enum ShopEvent {
    Order(OrderEvent),
    Payment(PaymentEvent),
    Shipping(ShippingEvent),
}

/// Reserves, charges and ships; then bills and thanks.
#[derive(Saga, Serialize, Deserialize, Clone)]
#[saga(steps, key = order_of)]
pub struct OrderFulfilment {
    order: Id<Order>,
    warehouse: Id<Stock>,
    total: i64,
    payment: Option<String>,
}

fn order_of(event: &Recorded<ShopEvent>) -> Option<String> {
    let order = match &event.data {
        ShopEvent::Order(OrderEvent::Placed { order, .. }) => order,
        ShopEvent::Payment(PaymentEvent::Charged { order, .. } | PaymentEvent::Declined { order, .. }) => order,
        ShopEvent::Shipping(ShippingEvent::Sent { order } | ShippingEvent::Failed { order, .. }) => order,
        ShopEvent::Order(_) => return None,
    };
    Some(order.key().into())
}

impl Steps for OrderFulfilment {
    type Event = ShopEvent;

    fn begin(event: &Recorded<ShopEvent>) -> Option<Self> {
        let ShopEvent::Order(OrderEvent::Placed { order, warehouse, total }) = &event.data else { return None };
        Some(Self { order: order.clone(), warehouse: warehouse.clone(), total: *total, payment: None })
    }

    fn hear(&mut self, event: &ShopEvent) {
        if let ShopEvent::Payment(PaymentEvent::Charged { payment, .. }) = event {
            self.payment = Some(payment.clone());
        }
    }

    fn steps(&self) -> Plan<ShopEvent> {
        use {PaymentEvent::*, ShippingEvent::*, ShopEvent::*, StockCommand::*};
        let order = || self.order.clone();
        Plan::new()
            .step("stock", send(&self.warehouse, Reserve { order: order() }))
            .undo(send(&self.warehouse, Release { order: order() }))
            .step("payment", ask("payments", Charge { order: order(), cents: self.total }))
            .done(|event| matches!(event, Payment(Charged { .. })))
            .failed(|event| match event {
                Payment(Declined { reason, .. }) => Some(reason.clone()),
                _ => None,
            })
            .within(Duration::from_secs(900))
            .undo(ask("payments", Refund { order: order(), payment: self.payment.clone() }))
            .step("shipping", ask("shipping", Ship { order: order() }))
            .done(|event| matches!(event, Shipping(Sent { .. })))
            .failed(|event| match event {
                Shipping(Failed { reason, .. }) => Some(reason.clone()),
                _ => None,
            })
            .undo(ask("shipping", Recall { order: order() }))
            .deadline(Duration::from_secs(14 * 86_400))
            .pivot()
            .all([
                step("invoice", send(Id::<Invoice>::from(self.order.key()), Issue { total: self.total })),
                step("thanks", ask("mail", Thank { order: order() })),
            ])
    }

    fn ended(&self, end: &End) -> Commands {
        match end {
            End::Done => send(&self.order, OrderCommand::Complete),
            End::Undone { step, reason } => {
                send(&self.order, OrderCommand::Cancel { reason: format!("{step}: {reason}") })
            }
        }
    }
}

fn o7() -> Id<Order> {
    "o7".into()
}

fn placed() -> OrderEvent {
    OrderEvent::Placed { order: o7(), warehouse: "berlin".into(), total: 500 }
}

#[test]
fn an_order_is_fulfilled() {
    OrderFulfilment::given(placed()).then_done();
    OrderFulfilment::given(placed()).then_ended(send(o7(), OrderCommand::Complete));
}

#[test]
fn g7_what_is_done_is_undone_in_reverse_order() {
    OrderFulfilment::given(placed()).fails_at("shipping", "no van").then_undone(["payment", "stock"]);
    OrderFulfilment::given(placed()).fails_at("payment", "card expired").then_undone(["stock"]);
    OrderFulfilment::given(placed()).fails_at("stock", "out of stock").then_undone([]);
    OrderFulfilment::given(placed())
        .fails_at("payment", "card expired")
        .then_ended(send(o7(), OrderCommand::Cancel { reason: "payment: card expired".into() }));
    OrderFulfilment::given(placed())
        .hears(PaymentEvent::Declined { order: o7(), reason: "no money".into() })
        .then_ended(send(o7(), OrderCommand::Cancel { reason: "payment: no money".into() }));
}

#[test]
fn g7_a_step_of_which_nothing_is_known_is_undone_too() {
    OrderFulfilment::given(placed()).times_out_at("payment").then_undone(["payment", "stock"]);
    OrderFulfilment::given(placed())
        .times_out_at("payment")
        .then_ended(send(o7(), OrderCommand::Cancel { reason: "payment: not done within 900s".into() }));
}

#[test]
fn g7_an_undoing_that_is_refused_stops_there_and_is_seen() {
    OrderFulfilment::given(placed())
        .fails_at("shipping", "no van")
        .refuses_to_undo("stock", "the shelf is gone")
        .then_parked("step `stock` cannot be undone: the shelf is gone");
}

#[test]
fn g7_behind_the_pivot_there_is_only_forward() {
    OrderFulfilment::given(placed()).fails_at("invoice", "no paper").then_parked("step `invoice`: no paper");
}

#[test]
#[should_panic(expected = "- ")]
fn what_is_not_as_expected_is_told_with_the_lines_that_differ() {
    OrderFulfilment::given(placed()).fails_at("shipping", "no van").then_undone(["stock", "payment"]);
}

/// An order of one piece, of which there are `pieces`. Payments and shipping answer in one of the ways they can.
fn shop(pieces: u32) -> Simulation<Stepping<OrderFulfilment>> {
    let warehouse = || Id::<Stock>::from("berlin");
    Simulation::of::<OrderFulfilment>()
        .given(warehouse(), StockCommand::Deliver { pieces })
        .given(o7(), OrderCommand::Place { order: o7(), warehouse: warehouse(), total: 500 })
        .replies("payments", |charge: &Charge| {
            let order = || charge.order.clone();
            vec![
                PaymentEvent::Charged { order: order(), payment: "p1".into() },
                PaymentEvent::Declined { order: order(), reason: "card expired".into() },
            ]
        })
        .replies("shipping", |ship: &Ship| {
            let order = || ship.order.clone();
            vec![
                ShippingEvent::Sent { order: order() },
                ShippingEvent::Failed { order: order(), reason: "no van".into() },
            ]
        })
        .always(|world| {
            let asked = |name: &str| world.asked("payments", name) + world.asked("shipping", name);
            let all = ["payments.charge", "payments.refund", "shipping.ship", "shipping.recall"];
            for name in all {
                ensure!(asked(name) <= 1, "{name} is asked {} times", asked(name));
            }
            Ok(())
        })
        .finally(move |world| {
            let (stock, ends) = (world.load(warehouse()), world.events::<OrderEvent>(&o7()));
            ensure!(ends.len() == 2, "the order is {ends:?}");
            let (charged, refunded) =
                (world.asked("payments", "payments.charge"), world.asked("payments", "payments.refund"));
            let billed = world.load(Id::<Invoice>::from("o7")).issued;
            match (&ends[1], world.status("o7")) {
                (OrderEvent::Completed, Some(SagaStatus::Finished)) => {
                    ensure!(stock.reserved == [o7()] && billed && refunded == 0, "completed, and not all is done");
                    ensure!(world.asked("mail", "mail.thank") == 1, "not thanked");
                }
                (OrderEvent::Cancelled { .. }, Some(SagaStatus::Compensated)) => {
                    ensure!(stock.reserved.is_empty() && stock.pieces == pieces, "cancelled, and not all is undone");
                    ensure!(!billed, "cancelled, and billed");
                    let declined = !world
                        .events::<PaymentEvent>(&"in.payments-o7".parse::<StreamId>().expect("a name"))
                        .iter()
                        .any(|event| matches!(event, PaymentEvent::Charged { .. }));
                    ensure!(charged == refunded || declined, "charged, and not refunded");
                }
                other => return Err(format!("{other:?}")),
            }
            Ok(())
        })
}

#[test]
fn g7_an_order_is_fulfilled_or_undone_in_every_order() {
    let explored = shop(1).take_overs(0).lost_answers(0).conflicts(0).run();
    assert!(explored.complete, "{explored:?}");
    shop(1).crashes(0).lost_answers(0).conflicts(0).run();
    shop(0).run();
}
