//! Names that no store takes.

use eventstore::prelude::*;

#[derive(Event, Clone)]
#[event(prefix = "", retired("account\n"), retired())]
enum AccountEvent {
    #[event(name = "", alias = "account.\0opened")]
    Opened {
        #[event(tag = "Course 1")]
        course: String,
        #[event(tag = "")]
        student: String,
    },
}

#[derive(Event, Clone)]
enum OrderEvent {
    Opened,
    #[event(name = "$closed", alias = "$ended")]
    Closed,
}

fn main() {}
