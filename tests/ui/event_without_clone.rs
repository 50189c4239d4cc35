//! An event is cloned when it is decided, recorded and shown.

use eventstore::prelude::*;

#[derive(Event)]
enum AccountEvent {
    Opened { owner: String },
}

fn main() {}
