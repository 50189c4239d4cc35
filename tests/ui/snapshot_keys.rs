//! Snapshots that do not say when, or say it wrong, or would lose something.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
enum AccountEvent {
    Opened,
}

macro_rules! evolve {
    ($($State:ident)*) => {
        $(impl Evolve for $State {
            type Event = AccountEvent;

            fn evolve(&mut self, _: AccountEvent) {}
        })*
    };
}
evolve!(Bare Never Text Empty Versioned Both Misspelt Zero Slow Hours Hand Twice Forgetful);

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot)]
struct Bare;

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot = 0)]
struct Never;

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot = "100")]
struct Text;

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot())]
struct Empty;

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot(version = 2))]
struct Versioned;

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot(every = 100, slow = "5ms"))]
struct Both;

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot(evry = 100, size = 5), name = "account")]
struct Misspelt;

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot(every = 100, version = 0))]
struct Zero;

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot(slow = 5))]
struct Slow;

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot(slow = "2h"))]
struct Hours;

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot(by_hand = true))]
struct Hand;

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot = 100, snapshot(by_hand))]
struct Twice;

#[derive(Aggregate, Serialize, Deserialize)]
#[aggregate(snapshot = 100)]
struct Forgetful {
    #[serde(skip)]
    balance: i64,
    #[serde(default, skip_serializing)]
    owner: String,
}

fn main() {}
