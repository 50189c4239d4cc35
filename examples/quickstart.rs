//! A bank in a hundred lines: what happened is recorded, and everything else is made of it.
//!
//! ```sh
//! cargo run --example quickstart                                       # SQLite, in a temporary folder
//! DATABASE_URL=postgres://localhost/bank cargo run --features postgres --example quickstart
//! ```

use std::{env, error::Error};

use AccountEvent::*;
use Ask::*;
use eventstore::prelude::*;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

/// What can happen. The tags say which accounts an event concerns: a transfer concerns two.
#[rustfmt::skip]
#[derive(Event, Clone, Debug)]
enum AccountEvent {
    Opened { #[event(tag)] account: Id<Account>, owner: String },
    Deposited { #[event(tag)] account: Id<Account>, amount: i64 },
    Withdrawn { #[event(tag)] account: Id<Account>, amount: i64 },
    Transferred { #[event(tag)] from: Id<Account>, #[event(tag)] to: Id<Account>, amount: i64 },
}

/// What the rules need to know of an account: made of the events that carry its tag, and of nothing else.
#[derive(Aggregate, Clone)]
#[aggregate(by_tag)]
struct Account {
    #[aggregate(id)]
    id: Id<Account>,
    open: bool,
    balance: i64,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, event: AccountEvent) {
        match event {
            Opened { .. } => self.open = true,
            Deposited { amount, .. } => self.balance += amount,
            Withdrawn { amount, .. } => self.balance -= amount,
            Transferred { from, to, amount } => {
                self.balance -= if from == self.id { amount } else { 0 };
                self.balance += if to == self.id { amount } else { 0 };
            }
        }
    }
}

/// What can be asked of one account, and when it says no.
#[derive(Clone)]
enum Ask {
    Open(&'static str),
    Deposit(i64),
    Withdraw(i64),
}

impl Decide<Ask> for Account {
    fn decide(&self, ask: Ask) -> Decision<Self> {
        let account = self.id.clone();
        ensure!(self.open != matches!(ask, Open(_)), "the account is {}", if self.open { "open" } else { "not open" });
        Ok(vec![match ask {
            Open(owner) => Opened { account, owner: owner.into() },
            Deposit(amount) => Deposited { account, amount },
            Withdraw(amount) => {
                ensure!(amount <= self.balance, "{amount} asked for, {} in the account", self.balance);
                Withdrawn { account, amount }
            }
        }])
    }
}

#[derive(Clone)]
struct Transfer(i64);

/// The first decides, the second is consulted, and neither may change meanwhile: one event, no money in between.
impl Decide<Transfer> for (Account, Account) {
    fn decide(&self, Transfer(amount): Transfer) -> Decision<Account> {
        let (from, to) = self;
        ensure!(to.open, "{} is not open", to.id);
        ensure!(amount <= from.balance, "{amount} asked for, {} in the account", from.balance);
        Ok(vec![Transferred { from: from.id.clone(), to: to.id.clone(), amount }])
    }
}

/// A table for people to look at: one row for each account.
#[derive(ReadModel, Serialize, Deserialize, Clone, Debug, Default)]
#[read_model(tag = "account")]
struct Balance {
    #[read_model(index)]
    owner: String,
    balance: i64,
}

impl Project for Balance {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        match &event.data {
            Opened { owner, .. } => row.owner = owner.clone(),
            Deposited { amount, .. } => row.balance += amount,
            Withdrawn { amount, .. } => row.balance -= amount,
            Transferred { from, amount, .. } => row.balance += if row.key() == from.key() { -amount } else { *amount },
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let url = env::var("DATABASE_URL").unwrap_or(format!("sqlite://{}", folder.path().join("bank.db").display()));
    let store = eventstore::connect(&url).await?;
    let runner = Runner::new(&store).read_model::<Balance>().start();
    let (ann, bob) = (Id::<Account>::new(), Id::<Account>::new());

    println!("Commands are decided by rules, and what they decide is recorded:");
    store.execute(&ann, Open("Ann")).by("teller-7").await?;
    store.execute(&bob, Open("Bob")).by("teller-7").await?;
    let deposited = store.execute(&ann, Deposit(100)).await?;
    println!("  Ann deposits 100 and has {}; that is event {} of the log", deposited.state.balance, deposited.position);
    match store.execute(&ann, Withdraw(150)).await {
        Err(CommandError::Rejected(refusal)) => println!("  Ann wants 150: {refusal}; nothing is recorded"),
        other => drop(other?),
    }
    let transferred = store.execute((&ann, &bob), Transfer(30)).await?;
    let (from, to) = &transferred.state;
    println!("  Ann gives Bob 30, decided by both accounts at once: {} and {}", from.balance, to.balance);

    println!("\nA read model is a table that follows the log:");
    let balances = store.read_model::<Balance>();
    for (_, Balance { owner, balance }) in balances.list().after(transferred.position).await? {
        println!("  {owner:5}{balance:>5}");
    }

    println!("\nThe past can be asked: what was the balance …");
    let before = store.load(&ann).as_of(deposited.events[0].recorded_at).await?;
    println!("  … at {}, before the transfer? {}", deposited.events[0].recorded_at, before.balance);
    println!("  … and the whole table, then? {:?}", rows(balances.at_position(deposited.position).list().await?));

    println!("\nAnd this is all that was ever written:");
    let mut log = store.read().events::<AccountEvent>();
    while let Some(event) = log.try_next().await? {
        println!("  {} {} {:?}", event.position, event.recorded_at, event.data);
    }
    runner.stop().await;
    Ok(())
}

fn rows(rows: Vec<(String, Balance)>) -> Vec<(String, i64)> {
    rows.into_iter().map(|(_, row)| (row.owner, row.balance)).collect()
}
