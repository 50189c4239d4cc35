//! What cannot be an event.

use eventstore::prelude::*;

#[derive(Event, Clone)]
struct Opened {
    owner: String,
}

#[derive(Event, Clone)]
enum Changed<T> {
    To(T),
}

#[derive(Event, Clone)]
enum Nothing {}

#[derive(Event, Clone)]
enum Event {
    Opened,
    Closed,
}

#[derive(Event, Clone)]
enum LabelEvent {
    Printed { text: Option<&'static str> },
}

struct Account;

impl Evolve for Account {
    type Event = Opened;

    fn evolve(&mut self, Opened { .. }: Opened) {}
}

fn main() {}
