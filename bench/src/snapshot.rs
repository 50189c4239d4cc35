//! An aggregate with snapshots: loaded, however long its stream is, and asked to decide, against one without.

use std::{iter::repeat, sync::Arc};

use eventstore::{Expected, PgStore, prelude::*};
use serde::{Deserialize, Serialize};

use crate::{
    domain::{Account, AccountEvent, Deposit, Outcome, deposited},
    measure::{Bench, rate},
    streams::{Worker, accounts, execute, load},
};

/// The same account, with snapshots.
#[derive(Aggregate, Clone, Debug, Deserialize, Serialize)]
#[aggregate(name = "account", snapshot = 100)]
struct Kept {
    balance: i64,
}

impl Evolve for Kept {
    type Event = AccountEvent;

    fn evolve(&mut self, event: AccountEvent) {
        let AccountEvent::Deposited { amount, .. } = event;
        self.balance += amount;
    }
}

impl Decide<Deposit> for Kept {
    fn decide(&self, Deposit(amount): Deposit) -> Decision<Self> {
        ensure!(amount > 0, "nothing to deposit");
        Ok(vec![deposited(amount)])
    }
}

/// How many there are of each kind of account.
const ACCOUNTS: usize = 100;

/// So many more events for each.
async fn append<A>(store: &Store, ids: &[Id<A>], events: impl Iterator<Item = usize>) -> Outcome<()>
where
    A: Aggregate<Event = AccountEvent>,
{
    for (id, events) in ids.iter().zip(events) {
        store.append(id, Expected::Any, (1..=events as i64).map(deposited)).await?;
    }
    Ok(())
}

/// Accounts of so many events and a snapshot.
async fn kept(store: &Store, count: usize, events: usize) -> Outcome<Arc<Vec<Id<Kept>>>> {
    let ids = accounts::<Kept>(store, count, events).await?;
    for id in &*ids {
        store.snapshot(id).await?;
    }
    Ok(ids)
}

pub async fn run(bench: &mut Bench, url: &str) -> Outcome<()> {
    let store: Store = PgStore::options().schema("snapshot").connect(url).await?.into();
    let seconds = bench.seconds;

    let short = accounts::<Account>(&store, ACCOUNTS / 10, 10).await?;
    let yardstick = async || rate(Worker::new(store.clone(), &short), seconds, load).await;
    // With `snapshot = 100`, 50 come after it on average.
    for since in [10, 50] {
        let long = kept(&store, ACCOUNTS / 10, 10_000 - since).await?;
        append(&store, &long, repeat(since)).await?;
        let ours = async || rate(Worker::new(store.clone(), &long), seconds, load).await;
        let case = format!("load of 10000 events, {since} since the snapshot");
        bench.pair(case, "loads/s", ours, yardstick).await?;
    }
    let counts = store.snapshot_counts();
    assert!(counts.used > 0 && counts.ignored == 0);

    // One is due at once, the next a command later: of 100 commands, one is followed by a snapshot. New accounts each
    // time, since they grow.
    let ours = async || {
        let ids = kept(&store, ACCOUNTS, 100).await?;
        append(&store, &ids, (1..100).rev()).await?;
        let taken = store.snapshot_counts().taken;
        let rate = rate(Worker::new(store.clone(), &ids), seconds, execute).await?;
        store.finish_snapshots().await;
        assert!(store.snapshot_counts().taken > taken);
        Ok(rate)
    };
    let yardstick = async || {
        let ids = accounts::<Account>(&store, ACCOUNTS, 100).await?;
        append(&store, &ids, (1..100).rev()).await?;
        rate(Worker::new(store.clone(), &ids), seconds, execute).await
    };
    bench.pair("command at 100 to 199 events", "commands/s", ours, yardstick).await
}
