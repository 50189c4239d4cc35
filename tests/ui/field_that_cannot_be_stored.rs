//! An event holds what serde cannot write, or cannot read back.

use eventstore::prelude::*;
use serde::Serialize;

#[derive(Clone)]
struct Money(i64);

/// It can be written, and not read back.
#[derive(Serialize, Clone)]
struct Note(String);

#[derive(Event, Clone)]
enum AccountEvent {
    Opened { owner: String, limit: Option<Money> },
    Deposited(Money),
    Paid((Money, u8), Note),
}

#[derive(Aggregate)]
struct Account {
    balance: i64,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, event: AccountEvent) {
        if let AccountEvent::Deposited(Money(cents)) = event {
            self.balance += cents;
        }
    }
}

async fn load(store: Store, account: Id<Account>) {
    let _ = store.load(&account).await;
}

fn main() {}
