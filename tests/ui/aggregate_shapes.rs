//! What cannot be an aggregate, and what it cannot be called.

use eventstore::prelude::*;

#[derive(Event, Clone)]
enum AccountEvent {
    Opened,
}

#[derive(Aggregate)]
struct Held<T> {
    value: T,
}

impl<T: Send + Sync + 'static> Evolve for Held<T> {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

#[derive(Aggregate)]
#[aggregate(name = "Bank Account")]
struct Account {
    #[aggregate(id)]
    id: Id<Account>,
    #[aggregate(id)]
    owner: Id<Account>,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

#[derive(Aggregate)]
struct Größe {
    cents: i64,
}

impl Evolve for Größe {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

#[derive(Aggregate)]
#[aggregate(error = AccountError)]
enum Door {
    Open {
        #[aggregate(id)]
        id: Id<Door>,
    },
}

impl Evolve for Door {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

#[derive(Debug)]
struct AccountError;

impl std::fmt::Display for AccountError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no")
    }
}

impl std::error::Error for AccountError {}

#[derive(Clone)]
struct Close;

/// The error type is known even where the derive has failed.
impl Decide<Close> for Door {
    fn decide(&self, Close: Close) -> Decision<Self> {
        Err(AccountError)
    }
}

fn main() {}
