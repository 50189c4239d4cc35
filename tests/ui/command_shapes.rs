//! What a stored command cannot be; and what is asked or sent without a rule or a name.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Generic<T>(T);

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "Payments")]
struct Named;

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(version = 2)]
struct Gap;

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(tag = "order")]
struct Misspelt;

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Forgets {
    #[serde(skip_serializing)]
    cents: i64,
}

#[derive(Clone, Debug, PartialEq)]
struct Nameless;

#[derive(Event, Clone)]
enum OrderEvent {
    Placed,
}

#[derive(Aggregate)]
struct Order;

impl Evolve for Order {
    type Event = OrderEvent;

    fn evolve(&mut self, _: OrderEvent) {}
}

fn asks() -> Commands {
    ask("payments", Nameless)
}

fn sends(order: Id<Order>) -> Commands {
    send(&order, Nameless)
}

fn main() {}
