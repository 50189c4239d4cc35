//! Moving money between two accounts: a saga with a state of its own.

use std::{mem::take, time::Duration};

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone, Debug, PartialEq)]
pub enum AccountEvent {
    Deposited { amount: i64 },
    Withdrawn { amount: i64 },
    Closed,
}

#[derive(Aggregate, Debug)]
pub struct Account {
    pub balance: i64,
    closed: bool,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::Deposited { amount } => self.balance += amount,
            AccountEvent::Withdrawn { amount } => self.balance -= amount,
            AccountEvent::Closed => self.closed = true,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Deposit {
    pub amount: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Withdraw {
    pub amount: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Close;

impl Decide<Deposit> for Account {
    fn decide(&self, Deposit { amount }: Deposit) -> Decision<Self> {
        ensure!(!self.closed, "the account is closed");
        Ok(vec![AccountEvent::Deposited { amount }])
    }
}

impl Decide<Withdraw> for Account {
    fn decide(&self, Withdraw { amount }: Withdraw) -> Decision<Self> {
        ensure!(amount <= self.balance, "only {} left", self.balance);
        Ok(vec![AccountEvent::Withdrawn { amount }])
    }
}

impl Decide<Close> for Account {
    fn decide(&self, Close: Close) -> Decision<Self> {
        ensure!(!self.closed, "the account is closed");
        Ok(vec![AccountEvent::Closed])
    }
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Order {
    pub id: Id<Transfer>,
    pub from: Id<Account>,
    pub to: Id<Account>,
    pub amount: i64,
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum TransferEvent {
    Requested(Order),
    Held,
    Accepted,
    Completed,
    Refused,
    Expired,
}

/// A transfer, which the receiver accepts or lets expire.
#[derive(Aggregate, Debug)]
pub struct Transfer {
    #[aggregate(id)]
    id: Id<Transfer>,
    pub last: Option<TransferEvent>,
}

impl Evolve for Transfer {
    type Event = TransferEvent;

    fn evolve(&mut self, event: TransferEvent) {
        self.last = Some(event);
    }
}

#[derive(Clone, Debug, PartialEq)]
#[allow(dead_code, reason = "some of them come from outside")]
pub enum TransferCommand {
    Request { from: Id<Account>, to: Id<Account>, amount: i64 },
    Hold,
    Accept,
    Complete,
    Refuse,
    Expire,
}
use TransferCommand::*;

impl Decide<TransferCommand> for Transfer {
    fn decide(&self, command: TransferCommand) -> Decision<Self> {
        use TransferEvent::*;
        Ok(vec![match (command, &self.last) {
            (Request { from, to, amount }, None) => Requested(Order { id: self.id.clone(), from, to, amount }),
            (Hold, Some(Requested(_))) => Held,
            (Accept, Some(Held)) => Accepted,
            (Expire, Some(Held)) => Expired,
            (Complete, Some(Accepted)) => Completed,
            (Refuse, Some(Requested(_) | Accepted)) => Refused,
            (_, last) => return Err(format!("it is {last:?}").into()),
        }])
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
pub enum BankEvent {
    Account(AccountEvent),
    Transfer(TransferEvent),
}

/// Takes the money from one account and holds it, until the other one accepts it: an hour at most.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub enum MoneyTransfer {
    #[default]
    Idle,
    Taking(Order),
    Holding(Order),
    Giving(Order),
    #[saga(end)]
    Settled,
}

impl Evolve for MoneyTransfer {
    type Event = BankEvent;

    fn evolve(&mut self, event: BankEvent) {
        use {AccountEvent::*, BankEvent::*, MoneyTransfer::*, TransferEvent::*};
        *self = match (take(self), event) {
            (Idle, Transfer(Requested(order))) => Taking(order),
            (Taking(order), Account(Withdrawn { .. })) => Holding(order),
            (Holding(order), Transfer(Accepted)) => Giving(order),
            (_, Transfer(Completed | Refused | Expired)) => Settled,
            (unchanged, _) => unchanged,
        }
    }
}

impl React for MoneyTransfer {
    fn react(&self, event: &Recorded<BankEvent>) -> Commands {
        use {AccountEvent::*, BankEvent::*, MoneyTransfer::*, TransferEvent::*};
        let back = |order: &Order| send(&order.from, Deposit { amount: order.amount });
        match (self, &event.data) {
            (Idle, Transfer(Requested(order))) => {
                send(&order.from, Withdraw { amount: order.amount }).or(send(&order.id, Refuse))
            }
            (Taking(order), Account(Withdrawn { .. })) => {
                send(&order.id, Hold).and(send(&order.id, Expire).after(Duration::from_secs(3_600)).named("expiry"))
            }
            (Holding(order), Transfer(Accepted)) => cancel("expiry")
                .and(send(&order.to, Deposit { amount: order.amount }).or(back(order).and(send(&order.id, Refuse)))),
            (Holding(order), Transfer(Expired)) => back(order),
            (Giving(order), Account(Deposited { .. })) if event.stream == order.to => send(&order.id, Complete),
            _ => Commands::none(),
        }
    }
}

fn ann() -> Id<Account> {
    "ann".into()
}

fn bob() -> Id<Account> {
    "bob".into()
}

fn t1() -> Id<Transfer> {
    "t1".into()
}

fn order() -> Order {
    Order { id: t1(), from: ann(), to: bob(), amount: 70 }
}

#[test]
fn money_goes_from_one_to_the_other() {
    MoneyTransfer::when(t1(), TransferEvent::Requested(order()))
        .then(send(ann(), Withdraw { amount: 70 }).or(send(t1(), Refuse)))
        .then_state(MoneyTransfer::Taking(order()))
        .when(ann(), AccountEvent::Withdrawn { amount: 70 })
        .then(send(t1(), Hold).and(send(t1(), Expire).after(Duration::from_secs(3_600)).named("expiry")))
        .when(t1(), TransferEvent::Accepted)
        .then(
            cancel("expiry").and(
                send(bob(), Deposit { amount: 70 }).or(send(ann(), Deposit { amount: 70 }).and(send(t1(), Refuse))),
            ),
        )
        .when(bob(), AccountEvent::Deposited { amount: 70 })
        .then(send(t1(), Complete))
        .when(t1(), TransferEvent::Completed)
        .then_nothing()
        .then_over()
        .when(t1(), TransferEvent::Requested(order()))
        .then_nothing();
}

#[test]
fn what_cannot_be_taken_or_given_ends_the_transfer() {
    let taken = || {
        MoneyTransfer::given(t1(), TransferEvent::Requested(order()))
            .given(ann(), AccountEvent::Withdrawn { amount: 70 })
    };
    MoneyTransfer::when(t1(), TransferEvent::Requested(order())).refused(ann()).then(send(t1(), Refuse));
    MoneyTransfer::when(t1(), TransferEvent::Requested(order())).accepted(ann()).then_nothing();
    taken()
        .when(t1(), TransferEvent::Accepted)
        .refused(bob())
        .then(cancel("expiry").and(send(ann(), Deposit { amount: 70 })).and(send(t1(), Refuse)));
    taken()
        .when_due("expiry")
        .then(send(t1(), Expire))
        .when(t1(), TransferEvent::Expired)
        .then(send(ann(), Deposit { amount: 70 }))
        .then_over();
    taken().when_next_due().then(send(t1(), Expire));
}

#[test]
#[should_panic(expected = "no timer is called `expiry`; armed: []")]
fn a_timer_that_is_cancelled_is_not_armed() {
    MoneyTransfer::given(t1(), TransferEvent::Requested(order()))
        .given(ann(), AccountEvent::Withdrawn { amount: 70 })
        .given(t1(), TransferEvent::Accepted)
        .when_due("expiry")
        .then_nothing();
}

#[test]
fn other_events_of_the_conversation_say_nothing() {
    MoneyTransfer::when(ann(), AccountEvent::Deposited { amount: 5 })
        .then_nothing()
        .then_state(MoneyTransfer::Idle)
        .when(bob(), AccountEvent::Closed)
        .then_nothing();
}
