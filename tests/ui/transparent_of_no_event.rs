//! A transparent event holds something that is no event.

use eventstore::Event;

#[derive(Clone)]
struct Note(String);

#[derive(Event, Clone)]
#[event(transparent)]
enum BankEvent {
    Note(Note),
}

fn main() {}
