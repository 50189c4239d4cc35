//! What cannot be a read model.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
enum AccountEvent {
    Opened,
}

macro_rules! project {
    ($($model:ident)*) => {
        $(impl Project for $model {
            type Event = AccountEvent;

            fn project(_: &mut Row<Self>, _: &Recorded<AccountEvent>) {}
        })*
    };
}
project!(Total Cents Nothing Both Camel);

#[derive(ReadModel, Serialize, Deserialize, Default)]
enum Total {
    #[default]
    None,
}

#[derive(ReadModel, Serialize, Deserialize, Default)]
struct Cents(i64);

#[derive(ReadModel, Serialize, Deserialize, Default)]
struct Nothing {}

#[derive(ReadModel, Serialize, Deserialize, Default)]
#[read_model(name = "both.models", version = 0, tag = "student", keys = per_day)]
struct Both {
    cents: i64,
}

#[derive(ReadModel, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Camel {
    total_cents: i64,
}

#[derive(ReadModel, Serialize, Deserialize, Default)]
struct Held<T> {
    value: T,
}

impl<T: Default + Serialize + serde::de::DeserializeOwned + Send + Sync + 'static> Project for Held<T> {
    type Event = AccountEvent;

    fn project(_: &mut Row<Self>, _: &Recorded<AccountEvent>) {}
}

fn main() {}
