//! Two events of one enum would be stored under one name.

use eventstore::Event;

#[derive(Event, Clone)]
enum AccountEvent {
    Opened,
    #[event(name = "account.opened")]
    Reopened,
    HTTPSeen,
    HttpSeen,
}

#[derive(Event, Clone)]
#[event(retired("transfer.asked", "transfer.started", "transfer.asked", "transfer.done"))]
enum TransferEvent {
    #[event(alias = "transfer.started")]
    Requested,
    #[event(alias = "transfer.requested", alias = "transfer.done")]
    Completed,
}

fn main() {}
