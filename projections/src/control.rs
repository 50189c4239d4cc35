//! What is written down about projections besides their rows and checkpoints, and how it is read and changed.

use std::collections::BTreeMap;

use eventstore_core::{Changes, Column, EventStore, Kind, Order, Rows, StoreError, Table, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::to_raw_value;

/// The table of what was said of projections, by name. One that is not there is active.
pub(crate) const PROJECTIONS: Table = Table {
    name: "projections",
    version: 0,
    columns: &[
        Column { name: "state", kind: Kind::Text, index: false },
        Column { name: "reason", kind: Kind::Text, index: false },
        Column { name: "since", kind: Kind::Time, index: false },
    ],
};

/// What was said of a projection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// `active`, `paused`, `failed`.
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) since: Timestamp,
}

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

/// Says what a projection is to do.
pub(crate) async fn set(
    store: &dyn EventStore,
    projection: &str,
    state: &str,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    let reason = reason.map(|reason| reason.replace('\0', "\\0"));
    write(store, &PROJECTIONS, projection, &Row { state: state.into(), reason, since: store.now() }).await
}
