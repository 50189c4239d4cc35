//! Tables of rows.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use eventstore::{Column, Event, Id, Keys, Kind, Project, ReadModel, Recorded, Row, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    account::{Account, AccountEvent},
    balances::{Balance, Turnover},
};

#[derive(Event, Clone)]
enum LectureEvent {
    Held {
        #[event(tag = "room")]
        room: String,
    },
}

macro_rules! project {
    ($($model:ident)*) => {
        $(impl Project for $model {
            type Event = LectureEvent;

            fn project(_: &mut Row<Self>, _: &Recorded<LectureEvent>) {}
        })*
    };
}
project!(EveryKind PerRoom PerDay);

#[derive(ReadModel, Serialize, Deserialize, Default)]
struct EveryKind {
    text: String,
    letter: char,
    id: Option<Id<Account>>,
    cow: Cow<'static, str>,
    boxed: Box<str>,
    #[read_model(index)]
    number: Option<i64>,
    small: u8,
    size: usize,
    real: f32,
    yes: bool,
    at: Option<Timestamp>,
    list: Vec<String>,
    map: BTreeMap<String, i64>,
    pair: (i64, i64),
    big: i128,
    shared: std::option::Option<std::string::String>,
    r#type: String,
    #[serde(rename = "renamed", default)]
    #[read_model(column = "bigint", index)]
    cents: Cents,
    #[read_model(column = "jsonb")]
    anything: String,
}

#[derive(Serialize, Deserialize, Default)]
struct Cents(i64);

#[derive(ReadModel, Serialize, Deserialize, Default)]
#[read_model(name = "rooms", version = 3, tag = "room")]
struct PerRoom {
    lectures: u32,
}

#[derive(ReadModel, Serialize, Deserialize, Default)]
#[read_model(keys = Self::days)]
struct PerDay {
    lectures: u32,
}

impl PerDay {
    fn days(_: &Recorded<LectureEvent>) -> Vec<String> {
        vec!["today".into()]
    }
}

#[test]
fn a_field_is_a_column_of_the_type_it_is_called_by() {
    let column = |name, kind| Column { name, kind, index: false, optional: false };
    let optional = |column| Column { optional: true, ..column };
    let indexed = |name, kind| Column { name, kind, index: true, optional: false };
    assert_eq!(
        EveryKind::COLUMNS,
        [
            column("text", Kind::Text),
            column("letter", Kind::Text),
            optional(column("id", Kind::Text)),
            column("cow", Kind::Text),
            column("boxed", Kind::Text),
            optional(indexed("number", Kind::Integer)),
            column("small", Kind::Integer),
            column("size", Kind::Integer),
            column("real", Kind::Real),
            column("yes", Kind::Bool),
            optional(column("at", Kind::Time)),
            column("list", Kind::Json),
            column("map", Kind::Json),
            column("pair", Kind::Json),
            column("big", Kind::Json),
            optional(column("shared", Kind::Text)),
            column("type", Kind::Text),
            indexed("renamed", Kind::Integer),
            column("anything", Kind::Json),
        ]
    );
}

#[test]
fn columns_are_the_keys_of_a_row_as_it_is_serialized() {
    let row = serde_json::to_value(EveryKind::default()).expect("a row");
    let keys: BTreeSet<_> = row.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys, EveryKind::COLUMNS.iter().map(|column| column.name).collect());
}

#[test]
fn a_table_is_called_by_its_type_in_version_one_unless_it_says_otherwise() {
    assert_eq!((EveryKind::NAME, EveryKind::VERSION), ("every_kind", 1));
    assert_eq!((PerRoom::NAME, PerRoom::VERSION), ("rooms", 3));
    assert_eq!(PerRoom::TABLE.to_string(), "rooms@3");
    assert_eq!(Balance::COLUMNS[0], Column { name: "owner", kind: Kind::Text, index: true, optional: false });
}

#[test]
fn rows_have_the_keys_of_streams_unless_tags_or_a_function_say_otherwise() {
    assert!(matches!(EveryKind::KEYS, Keys::Stream));
    assert!(matches!(PerRoom::KEYS, Keys::Tag("room")));
    assert!(matches!(PerDay::KEYS, Keys::By(_)));
    let turnover: Keys<AccountEvent> = Turnover::KEYS;
    assert!(matches!(turnover, Keys::By(_)));
}
