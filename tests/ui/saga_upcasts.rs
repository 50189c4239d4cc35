//! Upcasts of states and commands to something else.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
enum OrderEvent {
    Placed,
}

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(version = 2, upcast(1 => state_v1))]
struct Wrong;

fn state_v1(state: String) -> Option<Wrong> {
    Some(Wrong).filter(|_| state.is_empty())
}

impl Evolve for Wrong {
    type Event = OrderEvent;

    fn evolve(&mut self, _: OrderEvent) {}
}

impl React for Wrong {
    fn react(&self, _: &Recorded<OrderEvent>) -> Commands {
        Commands::none()
    }
}

struct Unreadable;

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(version = 2, upcast(1 => charge_v1))]
struct Charge;

fn charge_v1(_: Unreadable) -> Charge {
    Charge
}

fn main() {}
