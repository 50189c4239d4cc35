//! Fields that cannot be tags.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Clone)]
struct Seat(u32);

#[derive(Event, Clone)]
enum CampusEvent {
    Enrolled {
        #[event(tag)]
        course: u64,
        #[event(tag = "seat")]
        seat: Option<Seat>,
    },
}

fn main() {}
