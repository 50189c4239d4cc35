//! Only a state with snapshots must be written and read.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
enum AccountEvent {
    Opened,
}

#[derive(Aggregate)]
#[aggregate(snapshot = 100)]
struct Account {
    balance: i64,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

#[derive(Aggregate, Serialize)]
#[aggregate(snapshot(by_hand))]
struct Half {
    balance: i64,
}

impl Evolve for Half {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

#[derive(Aggregate, Serialize, Deserialize)]
struct Whole {
    balance: i64,
}

impl Evolve for Whole {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

fn main() {}
