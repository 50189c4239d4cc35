//! Enums of other events.

use eventstore::{Event, EventError, Id, Tag};

use crate::{
    account::{Account, AccountEvent},
    campus::CampusEvent,
    is_stored_as, read,
    transfer::{BankEvent, Order, TransferEvent},
};

/// An enum of enums of enums.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
enum TownEvent {
    Bank(BankEvent),
    Campus(CampusEvent),
    Changing(ChangingEvent),
}

#[derive(Event, Clone, Debug, PartialEq)]
enum ChangingEvent {
    #[event(version = 2, upcast(1 => twice))]
    Changed(i64),
}

fn twice(value: i64) -> Vec<ChangingEvent> {
    vec![ChangingEvent::Changed(value); 2]
}

#[test]
fn names_and_tags_are_those_of_all_events_inside() {
    assert_eq!(
        BankEvent::NAMES,
        [
            "account.opened",
            "account.deposited",
            "account.withdrawn",
            "account.closed",
            "transfer.requested",
            "transfer.completed",
            "transfer.refused",
            "transfer.expired",
        ]
    );
    assert_eq!(BankEvent::TAGS, [""; 0]);
    assert_eq!(TownEvent::NAMES.len(), BankEvent::NAMES.len() + CampusEvent::NAMES.len() + 1);
    assert_eq!(TownEvent::TAGS, CampusEvent::TAGS);
}

#[test]
fn it_is_stored_as_what_is_inside() {
    let deposited = AccountEvent::Deposited { amount: 5 };
    is_stored_as(BankEvent::Account(deposited.clone()), "account.deposited", r#"{"amount":5}"#);
    is_stored_as(TownEvent::Bank(BankEvent::Account(deposited)), "account.deposited", r#"{"amount":5}"#);
    let account = Id::<Account>::from("ann");
    let order = Order { id: "t1".into(), from: account.clone(), to: account, amount: 5 };
    is_stored_as(
        BankEvent::Transfer(TransferEvent::Requested(order)),
        "transfer.requested",
        r#"{"id":"t1","from":"ann","to":"ann","amount":5}"#,
    );
}

#[test]
fn tags_versions_and_upcasts_are_passed_on() -> Result<(), EventError> {
    let opened = CampusEvent::CourseOpened { course: "rust".into(), seats: 1 };
    assert_eq!(TownEvent::from(opened).tags(), [Tag::new("course", "rust")]);
    let changed = TownEvent::from(ChangingEvent::Changed(4));
    assert_eq!(changed.schema(), 2);
    assert_eq!(read::<TownEvent>("changing.changed", 1, "4")?, [changed.clone(), changed]);
    Ok(())
}

#[test]
fn it_is_made_of_what_is_inside() {
    assert_eq!(BankEvent::from(AccountEvent::Closed), BankEvent::Account(AccountEvent::Closed));
    assert_eq!(BankEvent::from(TransferEvent::Expired), BankEvent::Transfer(TransferEvent::Expired));
}

#[test]
fn what_no_one_inside_knows_is_an_error() {
    let error = read::<BankEvent>("campus.enrolled", 1, "{}").expect_err("not of the bank");
    assert!(matches!(error, EventError::Name(name, of) if name == "campus.enrolled" && of.ends_with("::BankEvent")));
    let error = read::<BankEvent>("account.closed", 2, "{}").expect_err("no such form");
    assert!(matches!(error, EventError::Schema(name, 2) if name == "account.closed"));
}
