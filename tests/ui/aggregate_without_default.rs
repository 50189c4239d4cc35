//! Before the first event, every field but the id has its default.

use eventstore::prelude::*;

#[derive(Event, Clone)]
enum AccountEvent {
    Opened,
}

#[derive(Aggregate)]
struct Account {
    id: Id<Account>,
    currency: Currency,
}

struct Currency(&'static str);

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

#[derive(Aggregate)]
enum Door {
    Open,
    Shut,
}

impl Evolve for Door {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

#[derive(Aggregate)]
struct Owner {
    #[aggregate(id)]
    id: u64,
}

impl Evolve for Owner {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

fn main() {}
