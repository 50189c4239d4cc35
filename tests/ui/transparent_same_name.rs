//! Two enums that are read together have an event of one name.

use eventstore::Event;

#[derive(Event, Clone)]
enum AccountEvent {
    Opened,
}

#[derive(Event, Clone)]
#[event(prefix = "account")]
enum SavingsEvent {
    Opened,
    Matured,
}

#[derive(Event, Clone)]
#[event(transparent)]
enum BankEvent {
    Account(AccountEvent),
    Savings(SavingsEvent),
}

fn main() {}
