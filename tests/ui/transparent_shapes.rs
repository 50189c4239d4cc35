//! A transparent event holds other events, and adds nothing.

use eventstore::Event;

#[derive(Event, Clone)]
enum AccountEvent {
    Opened,
}

#[derive(Event, Clone)]
#[event(transparent, prefix = "bank")]
enum BankEvent {
    Account(AccountEvent),
    Again(#[serde(default)] AccountEvent),
    #[event(name = "bank.opened")]
    Opened,
    Both(AccountEvent, AccountEvent),
}

fn one_mistake_is_one_message(event: AccountEvent) -> BankEvent {
    event.into()
}

fn main() {}
