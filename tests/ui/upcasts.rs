//! The stored form has changed, and there is no way from an earlier one to today's.

use eventstore::Event;

#[derive(Event, Clone)]
enum AccountEvent {
    #[event(version = 3)]
    Opened { owner: String },
    #[event(version = 3, upcast(1 => deposited_v1))]
    Deposited { cents: i64 },
    #[event(upcast(1 => deposited_v1))]
    Withdrawn { cents: i64 },
    #[event(version = 2, upcast(1 => deposited_v1, 2 => deposited_v1))]
    Charged { cents: i64 },
    #[event(version = 2, upcast(1 => deposited_v1, 1 => deposited_v1))]
    Refunded { cents: i64 },
    #[event(version = 0)]
    Closed,
    #[event(version = 2, upcast(1 = deposited_v1))]
    Frozen,
    #[event(version = "2", upcast = deposited_v1)]
    Thawed,
}

fn deposited_v1(euros: i64) -> AccountEvent {
    AccountEvent::Deposited { cents: euros * 100 }
}

fn main() {}
