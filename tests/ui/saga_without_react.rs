//! A saga that does not say what it answers.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
enum OrderEvent {
    Placed,
}

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
struct Silent;

impl Evolve for Silent {
    type Event = OrderEvent;

    fn evolve(&mut self, _: OrderEvent) {}
}

fn main() {}
