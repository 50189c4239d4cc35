//! The derives: what they make of good code, and what they say to bad code.

#[path = "cases/account.rs"]
mod account;
#[path = "cases/balances.rs"]
mod balances;
#[allow(dead_code, reason = "what other tests look at")]
#[path = "cases/campus.rs"]
mod campus;
#[allow(dead_code, reason = "what other tests ask for")]
#[path = "cases/transfer.rs"]
mod transfer;

#[path = "ui/derived/aggregates.rs"]
mod aggregates;
#[path = "ui/derived/bodies.rs"]
mod bodies;
#[path = "ui/derived/hostile.rs"]
mod hostile;
#[path = "ui/derived/names.rs"]
mod names;
#[path = "ui/derived/read_models.rs"]
mod read_models;
#[path = "ui/derived/sagas.rs"]
mod sagas;
#[path = "ui/derived/snapshots.rs"]
mod snapshots;
#[path = "ui/derived/tags.rs"]
mod tags;
#[path = "ui/derived/transparent.rs"]
mod transparent;
#[path = "ui/derived/upcasts.rs"]
mod upcasts;

use eventstore::{Event, EventError};

/// The stored name of an event, and its body.
fn stored<E: Event>(event: &E) -> (&'static str, String) {
    (event.name(), String::from_utf8(event.encode().expect("it can be written")).expect("JSON is UTF-8"))
}

/// What a body is read as.
fn read<E: Event>(name: &str, schema: u32, body: &str) -> Result<Vec<E>, EventError> {
    let mut events = vec![];
    E::decode(name, schema, body.as_bytes(), &mut |event| events.push(event))?;
    Ok(events)
}

/// Written so, and read back as it was.
fn is_stored_as<E: Event + std::fmt::Debug + PartialEq>(event: E, name: &str, body: &str) {
    assert_eq!(stored(&event), (event.name(), body.to_owned()));
    assert_eq!(event.name(), name);
    assert_eq!(read::<E>(name, event.schema(), body).expect("it can be read"), [event]);
}

#[test]
fn a_mistake_gets_one_message_that_says_what_to_type() {
    trybuild::TestCases::new().compile_fail("ui/*.rs");
}
