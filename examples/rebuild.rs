//! A read model gets another version while its shop is open: built beside the old one, compared, and put in its place; and
//! a table that somebody has spoiled is built again.
//!
//! ```sh
//! cargo run --release --example rebuild                               # SQLite, in a temporary folder
//! DATABASE_URL=postgres://localhost/bank cargo run --release --features postgres --example rebuild
//! ```

use std::{
    env,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventstore::{Expected, Processors, Version, prelude::*};
use serde::{Deserialize, Serialize};

#[derive(Event, Clone, Debug)]
enum AccountEvent {
    Deposited { amount: i64 },
    Withdrawn { amount: i64 },
}

#[derive(Aggregate, Clone)]
struct Account;

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

/// As it was in the release before.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
struct Balance {
    balance: i64,
}

impl Project for Balance {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        match event.data {
            AccountEvent::Deposited { amount } => row.balance += amount,
            AccountEvent::Withdrawn { amount } => row.balance -= amount,
        }
    }
}

/// As it is in this one: it also says how often something has happened.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(name = "balance", version = 2)]
struct Balance2 {
    balance: i64,
    entries: i64,
}

impl Project for Balance2 {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        row.entries += 1;
        match event.data {
            AccountEvent::Deposited { amount } => row.balance += amount,
            AccountEvent::Withdrawn { amount } => row.balance -= amount,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = format!("sqlite://{}", folder.path().join("bank.db").display());
    let store = eventstore::connect(&env::var("DATABASE_URL").unwrap_or(file)).await?;

    let accounts: Vec<_> = (0..200).map(|_| Id::<Account>::new()).collect();
    for account in &accounts {
        let events = (0..50).map(|n| AccountEvent::Deposited { amount: n });
        store.append(account, Expected::Version(Version(0)), events).await?;
    }

    // The release before runs, and customers come and go.
    let before = Runner::new(&store).read_model::<Balance>().start();
    before.until(store.head().await?).await?;
    let open = Arc::new(AtomicBool::new(true));
    let customers = tokio::spawn({
        let (store, accounts, open) = (store.clone(), accounts.clone(), open.clone());
        async move {
            let mut n = 0;
            while open.load(Ordering::Relaxed) {
                let withdrawn = AccountEvent::Withdrawn { amount: 1 };
                store.append(&accounts[n % accounts.len()], Expected::Any, [withdrawn]).await?;
                n += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok::<_, eventstore::StoreError>(n)
        }
    });

    // The new release starts beside it. Its table is built by two shards; nobody is sent to it by itself.
    let release = Runner::new(&store).read_model::<Balance2>().shards(2).promote_by_hand().start();
    let operator = Processors::new(&store); // as a tool would, from any process
    let rebuild = loop {
        match operator.building("balance@2").await {
            Ok(rebuild) => break rebuild,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    println!("balance@2: {}", rebuild.progress().await?);
    rebuild.wait().await?;
    println!("balance@2: {}", rebuild.progress().await?);

    let comparison = operator.compare("balance").await?;
    println!("{comparison}");
    assert_eq!(comparison.different, 0);
    operator.promote("balance").await?;
    println!("plain SQL finds balance@2 as \"balance@current\" now");

    // The old one is still kept up to date by the release before: there is a way back.
    operator.rollback("balance").await?;
    operator.promote("balance").await?;
    before.stop().await;
    operator.discard("balance@1").await?;

    // The same version again, beside itself: whatever happened to the table, the log knows.
    let rebuild = release.rebuild("balance").await?;
    rebuild.wait().await?;
    println!("{}: {}", rebuild.name(), rebuild.progress().await?);
    release.promote("balance").await?;
    operator.discard(rebuild.name()).await?;

    open.store(false, Ordering::Relaxed);
    let withdrawals = customers.await??;
    let head = store.head().await?;
    let rows = store.read_model::<Balance2>().list().after(head).await?;
    assert_eq!(rows, store.read_model::<Balance2>().at_position(head).list().await?);
    let entries: i64 = rows.iter().map(|(_, row)| row.entries).sum();
    assert_eq!(entries as usize, 200 * 50 + withdrawals);
    println!("{} rows, {entries} entries: each counted once", rows.len());
    release.stop().await;
    Ok(())
}
