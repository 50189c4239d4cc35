//! How earlier forms of events are read.

use eventstore::{Event, EventError};
use serde::Deserialize;

use crate::{is_stored_as, read};

#[derive(Event, Clone, Debug, PartialEq)]
enum AccountEvent {
    #[event(alias = "account.created", version = 3, upcast(1 => opened_v1, 2 => Self::opened_v2))]
    Opened {
        first: String,
        last: String,
    },
    #[event(version = 2, upcast(1 => earlier::moved_v1))]
    Deposited {
        cents: i64,
    },
    #[event(version = 2, upcast(1 => flagged_v1))]
    Flagged,
    Closed,
}

#[derive(Deserialize)]
struct OpenedV1 {
    owner: String,
}

fn opened_v1(OpenedV1 { owner }: OpenedV1) -> AccountEvent {
    AccountEvent::opened_v2((owner, String::new()))
}

/// It turned out to mean nothing.
fn flagged_v1(_: serde_json::Value) -> Option<AccountEvent> {
    None
}

impl AccountEvent {
    fn opened_v2((first, last): (String, String)) -> Self {
        Self::Opened { first, last }
    }
}

mod earlier {
    use super::AccountEvent::{self, Deposited};

    /// One event held many amounts.
    pub(super) fn moved_v1(euros: Vec<i64>) -> Vec<AccountEvent> {
        euros.into_iter().map(|euros| Deposited { cents: euros * 100 }).collect()
    }
}

fn ann(last: &str) -> AccountEvent {
    AccountEvent::Opened { first: "Ann".into(), last: last.into() }
}

#[test]
fn each_earlier_form_is_read_as_todays() -> Result<(), EventError> {
    for name in ["account.opened", "account.created"] {
        assert_eq!(read::<AccountEvent>(name, 1, r#"{"owner":"Ann"}"#)?, [ann("")]);
        assert_eq!(read::<AccountEvent>(name, 2, r#"["Ann","Lee"]"#)?, [ann("Lee")]);
        assert_eq!(read::<AccountEvent>(name, 3, r#"{"first":"Ann","last":"Lee"}"#)?, [ann("Lee")]);
        let error = read::<AccountEvent>(name, 4, "{}").expect_err("newer than this program");
        assert_eq!(error.to_string(), format!("version 4 of `{name}` is newer than this program"));
    }
    Ok(())
}

#[test]
fn one_event_may_become_many_or_none() -> Result<(), EventError> {
    let deposited = |cents| AccountEvent::Deposited { cents };
    assert_eq!(read::<AccountEvent>("account.deposited", 1, "[5,7]")?, [deposited(500), deposited(700)]);
    assert_eq!(read::<AccountEvent>("account.deposited", 1, "[]")?, []);
    assert_eq!(read::<AccountEvent>("account.flagged", 1, r#"{"why":"?"}"#)?, []);
    assert_eq!(read::<AccountEvent>("account.flagged", 2, "null")?, [AccountEvent::Flagged]);
    Ok(())
}

#[test]
fn only_todays_form_is_written() {
    assert_eq!((ann("").schema(), AccountEvent::Flagged.schema(), AccountEvent::Closed.schema()), (3, 2, 1));
    is_stored_as(ann("Lee"), "account.opened", r#"{"first":"Ann","last":"Lee"}"#);
    is_stored_as(AccountEvent::Deposited { cents: 5 }, "account.deposited", r#"{"cents":5}"#);
}

#[test]
fn an_earlier_form_that_is_something_else_is_an_error() {
    assert!(matches!(read::<AccountEvent>("account.opened", 1, "[]"), Err(EventError::Body(_))));
}
