//! What is written down about projections besides their rows and checkpoints, and how it is read and changed.

use std::collections::BTreeMap;

pub(crate) use eventstore_core::__private::{PROJECTIONS, ProjectionRow as Row};
use eventstore_core::{Changes, EventStore, Order, Position, Rows, StoreError, Table, Transaction};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::to_raw_value;

fn refused(table: &Table) -> impl Fn(serde_json::Error) -> StoreError {
    let table = table.to_string();
    move |source| StoreError::Row { table: table.clone(), source: source.into() }
}

/// All rows of a table, by key.
pub(crate) async fn rows<T: DeserializeOwned>(
    store: &dyn EventStore,
    table: &Table,
) -> Result<BTreeMap<String, T>, StoreError> {
    let rows = store.rows(Rows::Where { table: *table, equal: vec![], order: Order::default(), limit: None }).await?;
    let read = |(key, row): (String, Box<serde_json::value::RawValue>)| {
        serde_json::from_str(row.get()).map(|row| (key, row)).map_err(refused(table))
    };
    rows.into_iter().map(read).collect()
}

/// Writes one row, in a transaction of its own.
pub(crate) async fn write<T: Serialize>(
    store: &dyn EventStore,
    table: &Table,
    key: &str,
    row: &T,
) -> Result<(), StoreError> {
    let row = to_raw_value(row).map_err(refused(table))?;
    change(store, Changes { table: *table, upserts: vec![(key.into(), row)], deletes: vec![] }).await
}

pub(crate) async fn change(store: &dyn EventStore, changes: Changes) -> Result<(), StoreError> {
    let mut transaction = store.begin().await?;
    transaction.write(changes).await?;
    transaction.commit().await
}

/// What is known of a projection, as a transaction sees it.
pub(crate) async fn row(transaction: &mut dyn Transaction, projection: &str) -> Result<Option<Row>, StoreError> {
    let rows = transaction.rows(Rows::Keys { table: PROJECTIONS, keys: vec![projection.into()] }).await?;
    rows.first().map(|(_, row)| serde_json::from_str(row.get()).map_err(refused(&PROJECTIONS))).transpose()
}

/// Writes down what is known of a projection: in a transaction that has locked it.
pub(crate) async fn put(transaction: &mut dyn Transaction, projection: &str, row: &Row) -> Result<(), StoreError> {
    let row = to_raw_value(row).map_err(refused(&PROJECTIONS))?;
    transaction.write(Changes { table: PROJECTIONS, upserts: vec![(projection.into(), row)], deletes: vec![] }).await
}

/// Changes what is known of a projection, and nobody else does meanwhile.
pub(crate) async fn update(
    store: &dyn EventStore,
    projection: &str,
    change: impl FnOnce(&mut Row) + Send,
) -> Result<(), StoreError> {
    let mut transaction = store.begin().await?;
    transaction.lock_projection(projection).await?;
    let mut known = row(&mut *transaction, projection).await?.unwrap_or_else(|| Row::new(store.now(), Position(0)));
    change(&mut known);
    put(&mut *transaction, projection, &known).await?;
    transaction.commit().await
}

/// Says what a projection is to do.
pub(crate) async fn set(
    store: &dyn EventStore,
    projection: &str,
    state: &str,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    let (state, now) = (state.to_owned(), store.now());
    let reason = reason.map(|reason| reason.replace('\0', "\\0"));
    update(store, projection, |row| (row.state, row.reason, row.since) = (state, reason, now)).await
}
