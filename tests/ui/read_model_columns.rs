//! Columns that could not be made, or not be trusted.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
enum AccountEvent {
    Opened,
}

#[derive(Serialize, Deserialize, Default)]
struct Address {
    town: String,
}

#[derive(ReadModel, Serialize, Deserialize, Default)]
struct Balance {
    #[serde(flatten)]
    address: Address,
    #[serde(skip_serializing)]
    hidden: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<i64>,
    #[serde(rename(serialize = "in"))]
    into: i64,
    key: String,
    owner: String,
    #[serde(rename = "Owner")]
    holder: String,
    #[read_model(index)]
    towns: Vec<String>,
    #[read_model(column = "bool")]
    open: u8,
    #[read_model(column = "varchar")]
    code: String,
    #[serde(with = "as_text")]
    cents: i64,
    #[serde(skip)]
    seen: bool,
    #[serde(skip_deserializing)]
    last: i64,
    #[serde(rename = "a_column_whose_name_is_longer_than_what_postgresql_keeps_of_any_name")]
    long: String,
}

mod as_text {
    pub fn serialize<S: serde::Serializer>(cents: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(cents)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Project for Balance {
    type Event = AccountEvent;

    fn project(_: &mut Row<Self>, _: &Recorded<AccountEvent>) {}
}

fn main() {}
