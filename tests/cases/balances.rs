//! Read models: rows folded from events.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

use crate::account::AccountEvent::{self, *};

#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Balance {
    #[read_model(index)]
    pub owner: String,
    pub balance: i64,
}

impl Project for Balance {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        match &event.data {
            Opened { owner } => row.owner = owner.clone(),
            Deposited { amount } => row.balance += amount,
            Withdrawn { amount } => row.balance -= amount,
            Closed => row.delete(),
        }
    }
}

/// Fan-out: one row for what comes in, one for what goes out.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(keys = direction)]
pub struct Turnover {
    pub total: i64,
}

fn direction(event: &Recorded<AccountEvent>) -> Vec<String> {
    match event.data {
        Deposited { .. } => vec!["in".into(), "all".into()],
        Withdrawn { .. } => vec!["out".into(), "all".into()],
        _ => vec![],
    }
}

impl Project for Turnover {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        if let Deposited { amount } | Withdrawn { amount } = event.data {
            row.total += amount;
        }
    }
}
