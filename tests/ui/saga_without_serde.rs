//! States that cannot be written and read back.

use eventstore::prelude::*;
use serde::Serialize;

#[derive(Event, Clone)]
enum OrderEvent {
    Placed,
}

#[derive(Saga, Clone, Default)]
struct Unwritten {
    order: String,
}

impl Evolve for Unwritten {
    type Event = OrderEvent;

    fn evolve(&mut self, _: OrderEvent) {}
}

impl React for Unwritten {
    fn react(&self, _: &Recorded<OrderEvent>) -> Commands {
        Commands::none()
    }
}

#[derive(Command, Serialize, Clone, Debug, PartialEq)]
struct Half {
    order: String,
}

fn main() {}
