//! Events appended to an aggregate that could not read them, and to something that is no stream.

use eventstore::{Expected, StreamId, prelude::*};

#[derive(Event, Clone)]
enum AccountEvent {
    Deposited(i64),
}

#[derive(Event, Clone)]
enum CustomerEvent {
    Moved,
}

#[derive(Aggregate)]
struct Account {
    balance: i64,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, AccountEvent::Deposited(amount): AccountEvent) {
        self.balance += amount;
    }
}

fn append(store: &Store, ann: &Id<Account>) {
    let _ = store.append(ann, Expected::Any, [AccountEvent::Deposited(1)]);
    let _ = store.append(ann.stream(), Expected::Any, [CustomerEvent::Moved]);
    let _ = store.append(ann, Expected::Any, [CustomerEvent::Moved]);
    let _ = store.append(StreamId::new("x", "y"), Expected::Any, [AccountEvent::Deposited(1)]).and(
        ann.clone(),
        Expected::Any,
        [CustomerEvent::Moved],
    );
    let _ = store.append("account-ann", Expected::Any, [AccountEvent::Deposited(1)]);
}

fn main() {}
