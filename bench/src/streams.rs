//! One aggregate: loaded, and asked to decide; against a SELECT, a fold and a call of the same function by hand.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use eventstore::{Aggregate, Decide, Event, Evolve, Expected, Id, PgStore, Store, sqlx::AssertSqlSafe};
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::{
    domain::{Account, AccountEvent, Deposit, Outcome, body, deposited},
    measure::{Bench, rate},
};

/// Accounts of so many events each.
pub async fn accounts<A>(store: &Store, accounts: usize, events: usize) -> Outcome<Arc<Vec<Id<A>>>>
where
    A: Aggregate<Event = AccountEvent>,
{
    let mut ids = vec![];
    for _ in 0..accounts {
        let id = Id::<A>::new();
        store.append(&id, Expected::Any, (1..=events as i64).map(deposited)).await?;
        ids.push(id);
    }
    Ok(Arc::new(ids))
}

/// Whoever takes the next account, by the store or by hand.
pub struct Worker<S, A = Account> {
    store: S,
    ids: Arc<Vec<Id<A>>>,
    next: Arc<AtomicUsize>,
}

impl<S, A> Worker<S, A> {
    pub fn new(store: S, ids: &Arc<Vec<Id<A>>>) -> Vec<Self> {
        vec![Self { store, ids: ids.clone(), next: Arc::default() }]
    }

    fn id(&self) -> Id<A> {
        self.ids[self.next.fetch_add(1, Ordering::Relaxed) % self.ids.len()].clone()
    }
}

pub async fn load<A: Aggregate>(worker: Worker<Store, A>) -> Outcome<Worker<Store, A>> {
    let account = worker.store.load(worker.id()).await?;
    assert!(account.version.0 > 0);
    Ok(worker)
}

pub async fn execute<A>(worker: Worker<Store, A>) -> Outcome<Worker<Store, A>>
where
    A: Aggregate + Decide<Deposit>,
{
    worker.store.execute(worker.id(), Deposit(5)).await?;
    Ok(worker)
}

/// The account, its version, and the key of the type of its last event.
async fn fold(connection: &mut PgConnection, id: &Id<Account>) -> Outcome<(Account, i64, i32)> {
    let select = "SELECT version, type_key, payload FROM streams.events WHERE stream = $1 ORDER BY version";
    let rows = sqlx::query(select).bind(format!("account-{id}")).fetch_all(connection).await?;
    let (mut account, mut version, mut key) = (Account { balance: 0 }, 0, 0);
    for row in rows {
        AccountEvent::decode("account.deposited", 1, row.get(2), &mut |event| account.evolve(event))?;
        (version, key) = (row.get(0), row.get(1));
    }
    Ok((account, version, key))
}

async fn load_by_hand(mut worker: Worker<PgConnection>) -> Outcome<Worker<PgConnection>> {
    let id = worker.id();
    let (account, ..) = fold(&mut worker.store, &id).await?;
    assert!(account.balance > 0);
    Ok(worker)
}

async fn execute_by_hand(mut worker: Worker<PgConnection>) -> Outcome<Worker<PgConnection>> {
    let id = worker.id();
    let (account, version, key) = fold(&mut worker.store, &id).await?;
    assert!(account.balance > 0);
    let call = "SELECT recorded FROM streams.append_one($1, $2, $3, $4, '{1}', '{NULL}', '{\"{}\"}', $5, $6, $4, '{account}', $7)";
    let recorded: bool = sqlx::query_scalar(AssertSqlSafe(call))
        .bind(format!("account-{id}"))
        .bind(version)
        .bind(vec![Uuid::now_v7()])
        .bind(vec![key])
        .bind(vec![&b"{}"[..]])
        .bind(vec![body(&deposited(5))?])
        .bind(vec!["account.deposited"])
        .fetch_one(&mut worker.store)
        .await?;
    assert!(recorded);
    Ok(worker)
}

async fn store(url: &str) -> Outcome<Store> {
    Ok(PgStore::options().schema("streams").connect(url).await?.into())
}

pub async fn run_load(bench: &mut Bench, url: &str) -> Outcome<()> {
    let (store, seconds) = (store(url).await?, bench.seconds);
    for events in [10, 100, 1_000] {
        let ids = accounts(&store, 100, events).await?;
        let ours = async || rate(Worker::new(store.clone(), &ids), seconds, load).await;
        let yardstick =
            async || rate(Worker::new(PgConnection::connect(url).await?, &ids), seconds, load_by_hand).await;
        bench.pair(format!("{events} events"), "loads/s", ours, yardstick).await?;
    }
    Ok(())
}

pub async fn run_execute(bench: &mut Bench, url: &str) -> Outcome<()> {
    let (store, seconds) = (store(url).await?, bench.seconds);
    let ids = accounts(&store, 2_000, 10).await?;
    let ours = async || rate(Worker::new(store.clone(), &ids), seconds, execute).await;
    let yardstick = async || rate(Worker::new(PgConnection::connect(url).await?, &ids), seconds, execute_by_hand).await;
    bench.pair("10 events, 1 client", "commands/s", ours, yardstick).await
}
