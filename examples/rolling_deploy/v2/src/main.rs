//! Release 2 of a small bank: see `examples/rolling_deploy`. Beside release 1 it has
//!
//! - another event, `FeeCharged`;
//! - another version of an event: a deposit says its currency;
//! - another column of a read model, which a row may be without: `Balance::last`;
//! - another version of a read model: `Entries`, which counts fees as well.

#![allow(missing_docs, reason = "an example")]

use std::{env, error::Error};

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[path = "../../program.rs"]
mod program;

/// What can happen to an account, as release 2 knows it.
#[derive(Event, Clone, Debug)]
pub enum AccountEvent {
    #[event(version = 2, upcast(1 => deposited_v1))]
    Deposited {
        cents: i64,
        currency: String,
    },
    Withdrawn {
        cents: i64,
    },
    FeeCharged {
        cents: i64,
    },
}

#[derive(Deserialize)]
struct DepositedV1 {
    cents: i64,
}

fn deposited_v1(DepositedV1 { cents }: DepositedV1) -> AccountEvent {
    AccountEvent::Deposited { cents, currency: "EUR".into() }
}

impl AccountEvent {
    fn cents(&self) -> i64 {
        match self {
            Self::Deposited { cents, .. } => *cents,
            Self::Withdrawn { cents } | Self::FeeCharged { cents } => -cents,
        }
    }
}

/// One row an account.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Balance {
    cents: i64,
    /// What has happened last, if this release has seen it.
    last: Option<String>,
}

impl Project for Balance {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        row.cents += event.data.cents();
        row.last = Some(format!("{} cents at position {}", event.data.cents(), event.position));
    }
}

/// One row an account: how often something has happened, and how often it was a fee.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(version = 2)]
pub struct Entries {
    entries: i64,
    fees: i64,
}

impl Project for Entries {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        row.entries += 1;
        row.fees += i64::from(matches!(event.data, AccountEvent::FeeCharged { .. }));
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let only_fees = arguments.last().is_some_and(|last| last == "fees");
    let event = |n: i64| match n % 3 {
        _ if only_fees => AccountEvent::FeeCharged { cents: n },
        0 => AccountEvent::FeeCharged { cents: n },
        1 => AccountEvent::Withdrawn { cents: n },
        _ => AccountEvent::Deposited { cents: n, currency: "CHF".into() },
    };
    program::run::<AccountEvent, Balance, Entries>(&arguments, event).await
}
