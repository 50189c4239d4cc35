//! A command is put to the id of an aggregate that has no rule for it.

use eventstore::prelude::*;

#[derive(Event, Clone)]
enum AccountEvent {
    Withdrawn { amount: i64 },
}

#[derive(Aggregate)]
struct Account {
    balance: i64,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, AccountEvent::Withdrawn { amount }: AccountEvent) {
        self.balance -= amount;
    }
}

#[derive(Clone)]
struct Withdraw {
    amount: i64,
}

impl Decide<Withdraw> for Account {
    fn decide(&self, Withdraw { amount }: Withdraw) -> Decision<Self> {
        ensure!(amount <= self.balance, "only {} left", self.balance);
        Ok(vec![AccountEvent::Withdrawn { amount }])
    }
}

#[derive(Event, Clone)]
enum TransferEvent {
    Completed,
}

#[derive(Aggregate)]
struct Transfer {
    over: bool,
}

impl Evolve for Transfer {
    type Event = TransferEvent;

    fn evolve(&mut self, _: TransferEvent) {
        self.over = true;
    }
}

async fn pay(store: Store, transfer: Id<Transfer>) {
    let _ = store.execute(&transfer, Withdraw { amount: 5 }).await;
}

fn main() {}
