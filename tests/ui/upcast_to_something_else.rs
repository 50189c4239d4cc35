//! An upcast takes what was stored, and gives events.

use eventstore::Event;

#[derive(Event, Clone)]
enum AccountEvent {
    #[event(version = 2, upcast(1 => opened_v1))]
    Opened { owner: String },
    #[event(version = 2, upcast(1 => deposited_v1))]
    Deposited { cents: i64 },
}

struct Opened(String);

fn opened_v1(owner: String) -> Opened {
    Opened(owner)
}

struct DepositedV1 {
    euros: i64,
}

fn deposited_v1(DepositedV1 { euros }: DepositedV1) -> AccountEvent {
    AccountEvent::Deposited { cents: euros * 100 }
}

fn main() {}
