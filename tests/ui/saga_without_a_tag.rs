//! An instance for each tag of a name that no event has.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
enum OrderEvent {
    Placed {
        #[event(tag = "customer")]
        customer: String,
    },
}

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(tag = "order")]
struct Tagged;

impl Evolve for Tagged {
    type Event = OrderEvent;

    fn evolve(&mut self, _: OrderEvent) {}
}

impl React for Tagged {
    fn react(&self, event: &Recorded<OrderEvent>) -> Commands {
        let OrderEvent::Placed { customer } = &event.data;
        assert!(!customer.is_empty());
        Commands::none()
    }
}

fn main() {}
