//! A saga whose instances have nothing to begin with.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
enum OrderEvent {
    Placed,
}

#[derive(Saga, Serialize, Deserialize, Clone)]
struct Blank {
    order: String,
}

impl Evolve for Blank {
    type Event = OrderEvent;

    fn evolve(&mut self, _: OrderEvent) {}
}

impl React for Blank {
    fn react(&self, _: &Recorded<OrderEvent>) -> Commands {
        Commands::none()
    }
}

fn main() {}
