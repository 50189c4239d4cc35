//! Serde's attributes say how fields are stored; events are named by eventstore's own.

use eventstore::Event;

#[derive(Event, Clone)]
#[serde(rename_all = "camelCase", tag = "type")]
enum AccountEvent {
    #[serde(rename = "opened")]
    Opened {
        #[serde(rename = "accountOwner", default)]
        owner: String,
    },
    #[serde(alias = "shut", skip)]
    Closed,
    #[serde(other)]
    Unknown,
}

fn main() {}
