//! What events are called.

use eventstore::{Event, EventError};

use crate::{is_stored_as, read};

#[derive(Event, Clone, Debug, PartialEq)]
enum HTTPServerEvent {
    Started,
    RequestTimedOut,
    V2Spoken,
    r#Match,
}

#[derive(Event, Clone, Debug, PartialEq)]
enum Money {
    Deposited,
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "bank.account", retired("bank.account.flagged", "account.blocked"))]
enum AccountEvent {
    #[event(alias = "account.opened", alias = "account.created")]
    Opened { owner: String },
    #[event(name = "Konto geschlossen")]
    Closed,
}

#[derive(Event, Clone, Debug, PartialEq)]
enum Event2 {
    #[event(name = "two")]
    Two,
}

#[derive(eventstore::Event, Clone, Debug, PartialEq)]
#[event(prefix = "other")]
enum OtherEvent {
    Happened,
}

#[test]
fn events_are_called_by_the_enum_and_the_variant_in_snake_case() {
    assert_eq!(
        HTTPServerEvent::NAMES,
        ["http_server.started", "http_server.request_timed_out", "http_server.v2_spoken", "http_server.match"]
    );
    assert_eq!(HTTPServerEvent::RequestTimedOut.name(), "http_server.request_timed_out");
    assert_eq!(HTTPServerEvent::r#Match.name(), "http_server.match");
    is_stored_as(HTTPServerEvent::Started, "http_server.started", "null");
    is_stored_as(HTTPServerEvent::V2Spoken, "http_server.v2_spoken", "null");
    is_stored_as(Money::Deposited, "money.deposited", "null");
}

#[test]
fn a_prefix_and_a_name_are_taken_as_they_are() {
    is_stored_as(AccountEvent::Opened { owner: "Ann".into() }, "bank.account.opened", r#"{"owner":"Ann"}"#);
    is_stored_as(AccountEvent::Closed, "Konto geschlossen", "null");
    is_stored_as(Event2::Two, "two", "null");
    is_stored_as(OtherEvent::Happened, "other.happened", "null");
}

#[test]
fn earlier_names_are_read_and_never_written() -> Result<(), EventError> {
    for name in ["bank.account.opened", "account.opened", "account.created"] {
        assert_eq!(
            read::<AccountEvent>(name, 1, r#"{"owner":"Ann"}"#)?,
            [AccountEvent::Opened { owner: "Ann".into() }]
        );
    }
    Ok(())
}

#[test]
fn retired_names_are_known_and_read_as_nothing() -> Result<(), EventError> {
    assert_eq!(read::<AccountEvent>("account.blocked", 1, "whatever it was")?, []);
    assert_eq!(read::<AccountEvent>("bank.account.flagged", 7, "{}")?, []);
    Ok(())
}

#[test]
fn names_are_all_that_may_be_in_the_log() {
    let mut names = AccountEvent::NAMES.to_vec();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "Konto geschlossen",
            "account.blocked",
            "account.created",
            "account.opened",
            "bank.account.flagged",
            "bank.account.opened",
        ]
    );
}

#[test]
fn a_name_of_nobody_is_an_error_and_so_is_a_form_of_tomorrow() {
    let error = read::<AccountEvent>("account.deposited", 1, "{}").expect_err("no such event");
    assert!(matches!(&error, EventError::Name(name, _) if name == "account.deposited"), "{error}");
    for schema in [0, 2] {
        let error = read::<AccountEvent>("account.created", schema, "{}").expect_err("no such form");
        assert!(matches!(&error, EventError::Schema(name, n) if name == "account.created" && *n == schema), "{error}");
    }
    let error = read::<AccountEvent>("bank.account.opened", 1, "null").expect_err("no such body");
    assert_eq!(error.to_string(), "invalid type: null, expected the body of `bank.account.opened` at line 1 column 4");
}
