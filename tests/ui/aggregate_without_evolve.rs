//! A state is made of its events, so it has to say how.

use eventstore::Aggregate;

#[derive(Aggregate)]
struct Account {
    balance: i64,
}

#[derive(Aggregate)]
#[aggregate(by_tag)]
struct Course {
    free: u32,
}

fn main() {}
