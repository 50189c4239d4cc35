//! A topic and a way to rename fields that are none, and a message without a topic.

use eventstore::prelude::*;

#[derive(Event, Clone)]
#[event(topic = "Orders-1", rename_all = "camel")]
enum OrderMessage {
    Placed { order_id: String },
}

#[derive(Event, Clone)]
enum PrivateEvent {
    Placed { cents: i64 },
}

impl Publish for PrivateEvent {
    type From = PrivateEvent;

    fn publish(_: &Recorded<PrivateEvent>) -> Vec<Self> {
        vec![]
    }
}

fn main() {}
