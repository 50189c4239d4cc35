//! Release 1 of a small bank: see `examples/rolling_deploy`.

#![allow(missing_docs, reason = "an example")]

use std::{env, error::Error};

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[path = "../../program.rs"]
mod program;

/// What can happen to an account, as release 1 knows it.
#[derive(Event, Clone, Debug)]
pub enum AccountEvent {
    Deposited { cents: i64 },
    Withdrawn { cents: i64 },
}

impl AccountEvent {
    fn cents(&self) -> i64 {
        match self {
            Self::Deposited { cents } => *cents,
            Self::Withdrawn { cents } => -cents,
        }
    }
}

/// One row an account.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Balance {
    cents: i64,
}

impl Project for Balance {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        row.cents += event.data.cents();
    }
}

/// One row an account: how often something has happened.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Entries {
    entries: i64,
}

impl Project for Entries {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, _: &Recorded<AccountEvent>) {
        row.entries += 1;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let event = |n: i64| match n % 3 {
        0 => AccountEvent::Withdrawn { cents: n },
        _ => AccountEvent::Deposited { cents: n },
    };
    program::run::<AccountEvent, Balance, Entries>(&arguments, event).await
}
