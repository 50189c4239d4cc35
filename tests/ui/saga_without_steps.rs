//! A saga that says it has steps, and reacts instead.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
enum OrderEvent {
    Placed,
}

#[derive(Saga, Serialize, Deserialize, Clone)]
#[saga(steps)]
struct Fulfilment;

fn main() {}
