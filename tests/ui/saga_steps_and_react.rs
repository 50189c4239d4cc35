//! A saga with steps that reacts as well.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
enum OrderEvent {
    Placed,
}

#[derive(Saga, Serialize, Deserialize, Clone)]
#[saga(steps)]
struct Fulfilment;

impl Steps for Fulfilment {
    type Event = OrderEvent;

    fn begin(_: &Recorded<OrderEvent>) -> Option<Self> {
        Some(Self)
    }

    fn steps(&self) -> Plan<OrderEvent> {
        Plan::new()
    }

    fn ended(&self, _: &End) -> Commands {
        Commands::none()
    }
}

impl Evolve for Fulfilment {
    type Event = OrderEvent;

    fn evolve(&mut self, _: OrderEvent) {}
}

impl React for Fulfilment {
    fn react(&self, _: &Recorded<OrderEvent>) -> Commands {
        Commands::none()
    }
}

fn main() {}
