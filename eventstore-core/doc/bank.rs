// The bank that the examples of the documentation play with.

use eventstore::prelude::*;

#[derive(Event, Clone, Debug, PartialEq)]
pub enum AccountEvent {
    Opened { owner: String },
    Deposited { amount: i64 },
    Withdrawn { amount: i64 },
}
use AccountEvent::*;

#[derive(Aggregate, Clone, Debug)]
pub struct Account {
    pub balance: i64,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, event: AccountEvent) {
        match event {
            Opened { .. } => {}
            Deposited { amount } => self.balance += amount,
            Withdrawn { amount } => self.balance -= amount,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Deposit {
    pub amount: i64,
}

impl Decide<Deposit> for Account {
    fn decide(&self, Deposit { amount }: Deposit) -> Decision<Self> {
        Ok(vec![Deposited { amount }])
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Withdraw {
    pub amount: i64,
}

impl Decide<Withdraw> for Account {
    fn decide(&self, Withdraw { amount }: Withdraw) -> Decision<Self> {
        ensure!(amount <= self.balance, "only {} left", self.balance);
        Ok(vec![Withdrawn { amount }])
    }
}

#[derive(ReadModel, serde::Serialize, serde::Deserialize, Default, Debug, PartialEq)]
pub struct Balance {
    pub balance: i64,
}

impl Project for Balance {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        match event.data {
            Opened { .. } => row.balance = 0,
            Deposited { amount } => row.balance += amount,
            Withdrawn { amount } => row.balance -= amount,
        }
    }
}
