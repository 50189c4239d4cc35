//! What a saga cannot be, and what does not fit together.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
enum OrderEvent {
    Placed,
}

macro_rules! reacts {
    ($($State:ident)*) => {
        $(
            impl Evolve for $State {
                type Event = OrderEvent;

                fn evolve(&mut self, _: OrderEvent) {}
            }

            impl React for $State {
                fn react(&self, _: &Recorded<OrderEvent>) -> Commands {
                    Commands::none()
                }
            }
        )*
    };
}
reacts!(Ends EndsTwice Routed Named Starts Guesses Gap Unsaid Forgets Misspelt Variants StepsEnd);

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
struct Generic<T>(T);

#[derive(Saga, Clone, Copy)]
union Union {
    one: u8,
}

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(end)]
struct Ends;

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(end = is_over)]
enum EndsTwice {
    #[default]
    Begun,
    #[saga(end)]
    Over,
}

fn is_over(_: &EndsTwice) -> bool {
    false
}

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(steps)]
enum StepsEnd {
    #[default]
    Begun,
    #[saga(end)]
    Over,
}

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(stream, tag = "order")]
struct Routed;

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(name = "money transfer")]
struct Named;

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(from = "begining")]
struct Starts;

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(from = "monday")]
struct Guesses;

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(version = 3, upcast(1 => from_v1))]
struct Gap;

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(upcast(1 => from_v1))]
struct Unsaid;

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
struct Forgets {
    #[serde(skip)]
    order: String,
}

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
#[saga(stem, key)]
struct Misspelt;

#[derive(Saga, Serialize, Deserialize, Clone, Default)]
enum Variants {
    #[default]
    #[saga(end = true)]
    Begun,
    #[saga(steps)]
    Over,
}

fn main() {}
