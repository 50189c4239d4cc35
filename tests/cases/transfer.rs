//! Moving money between accounts: what can happen to a transfer, and what the bank hears of.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

use crate::account::{Account, AccountEvent};

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Order {
    pub id: Id<Transfer>,
    pub from: Id<Account>,
    pub to: Id<Account>,
    pub amount: i64,
}

#[derive(Event, Clone, Debug, PartialEq)]
pub enum TransferEvent {
    Requested(Order),
    Completed,
    Refused,
    Expired,
}

#[derive(Aggregate)]
pub struct Transfer {
    #[aggregate(id)]
    id: Id<Transfer>,
    over: bool,
}

impl Evolve for Transfer {
    type Event = TransferEvent;

    fn evolve(&mut self, event: TransferEvent) {
        self.over = !matches!(event, TransferEvent::Requested(_));
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum TransferCommand {
    Request { from: Id<Account>, to: Id<Account>, amount: i64 },
    Complete,
    Refuse,
    Expire,
}
use TransferCommand::*;

impl Decide<TransferCommand> for Transfer {
    fn decide(&self, command: TransferCommand) -> Decision<Self> {
        ensure!(!self.over, "the transfer is over");
        Ok(vec![match command {
            Request { from, to, amount } => TransferEvent::Requested(Order { id: self.id.clone(), from, to, amount }),
            Complete => TransferEvent::Completed,
            Refuse => TransferEvent::Refused,
            Expire => TransferEvent::Expired,
        }])
    }
}

/// Everything a transfer has to hear about.
#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent)]
pub enum BankEvent {
    Account(AccountEvent),
    Transfer(TransferEvent),
}
