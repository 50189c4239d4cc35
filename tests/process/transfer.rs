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
    Completed,
    Refused,
    Expired,
}

#[derive(Aggregate, Debug)]
pub struct Transfer {
    #[aggregate(id)]
    id: Id<Transfer>,
    pub over: bool,
}

impl Evolve for Transfer {
    type Event = TransferEvent;

    fn evolve(&mut self, event: TransferEvent) {
        self.over = !matches!(event, TransferEvent::Requested(_));
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum TransferCommand {
    Request { from: Id<Account>, to: Id<Account>, amount: i64 },
    Complete,
    Refuse,
    Expire,
}
use TransferCommand::*;

impl Decide<TransferCommand> for Transfer {
    fn decide(&self, command: TransferCommand) -> Decision<Self> {
        ensure!(!self.over, "the transfer is over");
        Ok(vec![match command {
            Request { from, to, amount } => TransferEvent::Requested(Order { id: self.id.clone(), from, to, amount }),
            Complete => TransferEvent::Completed,
            Refuse => TransferEvent::Refused,
            Expire => TransferEvent::Expired,
        }])
    }
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
pub enum BankEvent {
    Account(AccountEvent),
    Transfer(TransferEvent),
}

/// Takes the money from one account and gives it to the other, or back.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
pub enum MoneyTransfer {
    #[default]
    Idle,
    Taking(Order),
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
            (Taking(order), Account(Withdrawn { .. })) => Giving(order),
            (_, Transfer(Completed | Refused | Expired)) => Settled,
            (unchanged, _) => unchanged,
        }
    }
}

impl React for MoneyTransfer {
    fn react(&self, event: &Recorded<BankEvent>) -> Commands {
        use {AccountEvent::*, BankEvent::*, MoneyTransfer::*, TransferEvent::*};
        match (self, &event.data) {
            (Idle, Transfer(Requested(order))) => send(&order.from, Withdraw { amount: order.amount })
                .or(send(&order.id, Refuse))
                .and(send(&order.id, Expire).after(Duration::from_secs(3_600)).named("expiry")),
            (Taking(order), Account(Withdrawn { amount })) => {
                let back = send(&order.from, Deposit { amount: *amount }).and(send(&order.id, Refuse));
                send(&order.to, Deposit { amount: *amount }).or(back)
            }
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
    MoneyTransfer::when(&t1(), TransferEvent::Requested(order()))
        .then(
            send(ann(), Withdraw { amount: 70 })
                .or(send(t1(), Refuse))
                .and(send(t1(), Expire).after(Duration::from_secs(3_600)).named("expiry")),
        )
        .then_state(MoneyTransfer::Taking(order()))
        .when(&ann(), AccountEvent::Withdrawn { amount: 70 })
        .then(send(bob(), Deposit { amount: 70 }).or(send(ann(), Deposit { amount: 70 }).and(send(t1(), Refuse))))
        .when(&bob(), AccountEvent::Deposited { amount: 70 })
        .then(send(t1(), Complete))
        .when(&t1(), TransferEvent::Completed)
        .then_nothing()
        .then_over()
        .when(&t1(), TransferEvent::Requested(order()))
        .then_nothing();
}

#[test]
fn what_cannot_be_taken_or_given_ends_the_transfer() {
    let requested = || MoneyTransfer::when(&t1(), TransferEvent::Requested(order()));
    let expiry = || send(t1(), Expire).after(Duration::from_secs(3_600)).named("expiry");
    requested().refused(&ann()).then(send(t1(), Refuse).and(expiry()));
    requested().accepted(&ann()).then(expiry());
    MoneyTransfer::given(&t1(), TransferEvent::Requested(order()))
        .when(&ann(), AccountEvent::Withdrawn { amount: 70 })
        .refused(&bob())
        .then(send(ann(), Deposit { amount: 70 }).and(send(t1(), Refuse)));
    MoneyTransfer::given(&t1(), TransferEvent::Requested(order()))
        .when_due("expiry")
        .then(send(t1(), Expire))
        .when(&t1(), TransferEvent::Expired)
        .then_over();
}

#[test]
fn other_events_of_the_conversation_say_nothing() {
    MoneyTransfer::when(&ann(), AccountEvent::Deposited { amount: 5 })
        .then_nothing()
        .then_state(MoneyTransfer::Idle)
        .when(&bob(), AccountEvent::Closed)
        .then_nothing();
}
