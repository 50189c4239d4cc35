//! What is appended: an account whose events have bodies of about 200 bytes.

use eventstore::prelude::*;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Event, Clone, Debug)]
pub enum AccountEvent {
    Deposited { amount: i64, currency: String, reference: String, note: String },
}

pub fn deposited(amount: i64) -> AccountEvent {
    AccountEvent::Deposited {
        amount,
        currency: "EUR".into(),
        reference: "RF18-5390-0754-7034-0000-1122-3344".into(),
        note: "Payment for the invoice of last month, with thanks; the rest follows when the goods have come.".into(),
    }
}

/// The body as one would write it by hand.
pub fn body(event: &AccountEvent) -> Outcome<Vec<u8>> {
    Ok(event.encode()?)
}

#[derive(Aggregate, Clone, Debug)]
pub struct Account {
    pub balance: i64,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, event: AccountEvent) {
        let AccountEvent::Deposited { amount, .. } = event;
        self.balance += amount;
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Deposit(pub i64);

impl Decide<Deposit> for Account {
    fn decide(&self, Deposit(amount): Deposit) -> Decision<Self> {
        ensure!(amount > 0, "nothing to deposit");
        Ok(vec![deposited(amount)])
    }
}
