//! Transfers between purses, which sagas carry out: one answers each event freely, one has declared steps, and one waits.

use std::{mem::take, time::Duration};

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

/// How many purses there are.
pub const PURSES: u64 = 12;
/// What is in a purse at first.
const FIRST: i64 = 500;
/// The most that a purse holds.
const MOST: i64 = 1_000;
/// How long a transfer that waits is to wait.
pub const WAITS: Duration = Duration::from_millis(700);

/// How a transfer is carried out.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// By a saga that answers each event.
    Free,
    /// By a saga with steps.
    Steps,
    /// Not at all: it is refused when a timer fires.
    Waits,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Order {
    pub way: Way,
    pub from: String,
    pub to: String,
    pub amount: i64,
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum TransferEvent {
    Requested(Order),
    Completed,
    Refused,
}

impl TransferEvent {
    /// Its stored name and body, as the log of a client has them.
    pub fn planned(Order { way, from, to, amount }: &Order) -> (&'static str, Json) {
        ("transfer.requested", json!({ "way": way, "from": from, "to": to, "amount": amount }))
    }

    /// Back from there.
    pub fn from_planned(name: &str, data: &Json) -> Option<Self> {
        let order = serde_json::from_value(data.clone()).ok()?;
        (name == "transfer.requested").then_some(Self::Requested(order))
    }
}

#[derive(Aggregate)]
pub struct Transfer {
    over: bool,
}

impl Evolve for Transfer {
    type Event = TransferEvent;

    fn evolve(&mut self, event: TransferEvent) {
        self.over |= !matches!(event, TransferEvent::Requested(_));
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Complete;

impl Decide<Complete> for Transfer {
    fn decide(&self, _: Complete) -> Decision<Self> {
        ensure!(!self.over, "it is over");
        Ok(vec![TransferEvent::Completed])
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Refuse;

impl Decide<Refuse> for Transfer {
    fn decide(&self, _: Refuse) -> Decision<Self> {
        ensure!(!self.over, "it is over");
        Ok(vec![TransferEvent::Refused])
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum PurseEvent {
    Taken { transfer: String, amount: i64 },
    Given { transfer: String, amount: i64 },
    Returned { transfer: String, amount: i64 },
}

impl PurseEvent {
    fn transfer(&self) -> &str {
        let (Self::Taken { transfer, .. } | Self::Given { transfer, .. } | Self::Returned { transfer, .. }) = self;
        transfer
    }
}

#[derive(Aggregate, Clone)]
pub struct Purse {
    moved: i64,
}

impl Evolve for Purse {
    type Event = PurseEvent;

    fn evolve(&mut self, event: PurseEvent) {
        self.moved += match event {
            PurseEvent::Taken { amount, .. } => -amount,
            PurseEvent::Given { amount, .. } | PurseEvent::Returned { amount, .. } => amount,
        };
    }
}

/// What is to happen to a purse.
#[derive(Clone, Debug, PartialEq)]
struct Move(PurseEvent);

impl Decide<Move> for Purse {
    fn decide(&self, Move(event): Move) -> Decision<Self> {
        match event {
            PurseEvent::Taken { amount, .. } => ensure!(FIRST + self.moved >= amount, "it has less"),
            PurseEvent::Given { amount, .. } => ensure!(FIRST + self.moved + amount <= MOST, "it is full"),
            PurseEvent::Returned { .. } => {}
        }
        Ok(vec![event])
    }
}

fn move_in(purse: &str, event: PurseEvent) -> Commands {
    send(Id::<Purse>::from(purse), Move(event))
}

/// What the sagas read.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
pub enum MoveEvent {
    Transfer(TransferEvent),
    Purse(PurseEvent),
}

/// Carries transfers out, event by event: an instance a conversation.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(name = "moves", from = "beginning")]
pub enum Moves {
    #[default]
    Idle,
    Taking(Order),
    Giving(Order),
    Returning,
    #[saga(end)]
    Over,
}

impl Evolve for Moves {
    type Event = MoveEvent;

    fn evolve(&mut self, event: MoveEvent) {
        use {MoveEvent::*, PurseEvent::*, TransferEvent::*};
        *self = match (take(self), event) {
            (Self::Idle, Transfer(Requested(order))) if order.way != Way::Steps => Self::Taking(order),
            (Self::Taking(order), Purse(Taken { .. })) => Self::Giving(order),
            (Self::Giving(_), Purse(Returned { .. })) => Self::Returning,
            (Self::Idle, _) => Self::Idle,
            (_, Transfer(Completed | Refused)) => Self::Over,
            (same, _) => same,
        };
    }
}

impl React for Moves {
    fn react(&self, event: &Recorded<MoveEvent>) -> Commands {
        use {MoveEvent::*, PurseEvent::*, TransferEvent::*};
        match (self, &event.data) {
            (Self::Idle, Transfer(Requested(order))) => {
                let (transfer, amount) = (event.stream.key().to_owned(), order.amount);
                let id = Id::<self::Transfer>::from(&*transfer);
                match order.way {
                    Way::Free => move_in(&order.from, Taken { transfer, amount }).or(send(&id, Refuse)),
                    Way::Waits => send(&id, Refuse).after(WAITS),
                    Way::Steps => Commands::none(),
                }
            }
            (Self::Taking(order), Purse(Taken { transfer, amount })) => {
                let (transfer, amount) = (transfer.clone(), *amount);
                let back = move_in(&order.from, Returned { transfer: transfer.clone(), amount });
                move_in(&order.to, Given { transfer, amount }).or(back)
            }
            (Self::Giving(_), Purse(Given { transfer, .. })) => send(Id::<self::Transfer>::from(&**transfer), Complete),
            (Self::Giving(_), Purse(Returned { transfer, .. })) => {
                send(Id::<self::Transfer>::from(&**transfer), Refuse)
            }
            _ => Commands::none(),
        }
    }
}

/// Carries transfers out by steps: an instance a transfer.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[saga(name = "stepped", steps, key = transfer_of, from = "beginning")]
pub struct Stepped {
    transfer: String,
    order: Order,
}

fn transfer_of(event: &Recorded<MoveEvent>) -> Option<String> {
    match &event.data {
        MoveEvent::Transfer(_) => Some(event.stream.key().to_owned()),
        MoveEvent::Purse(event) => Some(event.transfer().to_owned()),
    }
}

impl Steps for Stepped {
    type Event = MoveEvent;

    fn begin(event: &Recorded<MoveEvent>) -> Option<Self> {
        let MoveEvent::Transfer(TransferEvent::Requested(order)) = &event.data else { return None };
        let begins = order.way == Way::Steps;
        begins.then(|| Self { transfer: event.stream.key().to_owned(), order: order.clone() })
    }

    fn steps(&self) -> Plan<MoveEvent> {
        use PurseEvent::*;
        let (Order { from, to, amount, .. }, transfer) = (&self.order, || self.transfer.clone());
        let amount = *amount;
        Plan::new()
            .step("take", move_in(from, Taken { transfer: transfer(), amount }))
            .done(|event| matches!(event, MoveEvent::Purse(Taken { .. })))
            .undo(move_in(from, Returned { transfer: transfer(), amount }))
            .step("give", move_in(to, Given { transfer: transfer(), amount }))
    }

    fn ended(&self, end: &End) -> Commands {
        let id = Id::<Transfer>::from(&*self.transfer);
        match end {
            End::Done => send(&id, Complete),
            End::Undone { .. } => send(&id, Refuse),
        }
    }
}
