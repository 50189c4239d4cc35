//! What each crate is asked to do: the same accounts, with events of the same data.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use uuid::Uuid;

use crate::domain::{AccountEvent, Outcome, deposited};

/// A crate for event sourcing, set up as its documentation says.
pub trait Peer: Clone + Send + Sync + 'static {
    /// Its name and version.
    fn name(&self) -> String;

    /// A new aggregate, of so many deposits of 1, recorded together. Checked: it did not exist.
    fn open(&self, deposits: usize) -> impl Future<Output = Outcome<Uuid>> + Send;

    /// The balance of an account: its events, read, decoded and folded.
    fn load(&self, id: Uuid) -> impl Future<Output = Outcome<i64>> + Send;

    /// A command: the account is loaded and asked, and what it answers is recorded. Checked: nothing came between.
    fn deposit(&self, id: Uuid) -> impl Future<Output = Outcome<()>> + Send;
}

/// The data of an event, for those that have no event of ours.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Payment {
    pub amount: i64,
    currency: String,
    reference: String,
    note: String,
}

pub fn payment() -> Payment {
    let AccountEvent::Deposited { amount, currency, reference, note } = deposited(1);
    Payment { amount, currency, reference, note }
}

/// The version of a crate in this program.
pub fn named(name: &str) -> String {
    let entry = format!("name = \"{name}\"\nversion = \"");
    let version = include_str!("../Cargo.lock").split_once(&entry).and_then(|(_, rest)| rest.split_once('"'));
    format!("{name} {}", version.map_or("", |(version, _)| version))
}

/// A pool as `PgPool::connect` makes it, but for the number of connections: none of the writers has to wait for one.
/// Each crate has a schema of its own, since some have tables of the same name.
pub async fn pool(url: &str, schema: &'static str, tables: &'static str) -> Outcome<PgPool> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}; {tables}"))
        .execute(&mut connection)
        .await?;
    let options = url.parse::<PgConnectOptions>()?.options([("search_path", schema)]);
    Ok(PgPoolOptions::new().max_connections(16).connect_with(options).await?)
}

/// Accounts of so many events each.
pub async fn accounts(peer: &impl Peer, accounts: usize, events: usize) -> Outcome<Ids> {
    let mut ids = vec![];
    for _ in 0..accounts {
        ids.push(peer.open(events).await?);
    }
    Ok(Ids(ids.into()))
}

pub struct Ids(pub Arc<[Uuid]>);

impl Ids {
    /// One who takes an account after the other.
    pub fn worker<S>(&self, by: S) -> Vec<Worker<S>> {
        vec![Worker { by, ids: self.0.clone(), next: 0 }]
    }
}

pub struct Worker<S> {
    pub by: S,
    ids: Arc<[Uuid]>,
    next: usize,
}

impl<S> Worker<S> {
    pub fn id(&mut self) -> Uuid {
        self.next += 1;
        self.ids[self.next % self.ids.len()]
    }
}

pub async fn append<P: Peer>(peer: P) -> Outcome<P> {
    peer.open(1).await?;
    Ok(peer)
}

pub async fn load<P: Peer>(mut worker: Worker<P>) -> Outcome<Worker<P>> {
    let id = worker.id();
    let balance = worker.by.load(id).await?;
    assert_eq!(balance, 100);
    Ok(worker)
}

pub async fn deposit<P: Peer>(mut worker: Worker<P>) -> Outcome<Worker<P>> {
    let id = worker.id();
    worker.by.deposit(id).await?;
    Ok(worker)
}
