//! The table of the instances of a process, `"transfer.saga"`: one row an instance.

use eventstore_core::{
    Changes, Column, Kind, SagaStatus, StoreError, Table, Timestamp,
    engine::interned,
    process::{Change, StoredInstance},
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// When something is to be done: microseconds since 1970.
pub const DUE: &Column = &COLUMNS[4];
/// How an instance stands.
pub const STATUS: &Column = &COLUMNS[3];

const COLUMNS: &[Column] = &[
    Column::new("slot", Kind::Integer),
    // As it was written, to the byte: `jsonb` would lose digits.
    Column::new("state", Kind::Text),
    Column::new("version", Kind::Integer),
    Column { index: true, ..Column::new("status", Kind::Text) },
    Column { index: true, ..Column::optional("due", Kind::Integer) },
    Column::new("timers", Kind::Text),
    Column::new("heard", Kind::Text),
    Column::optional("plan", Kind::Text),
    Column::new("started_at", Kind::Integer),
    Column::new("changed_at", Kind::Integer),
    Column::new("position", Kind::Integer),
    Column::optional("error", Kind::Text),
];

/// Returns the table of a process. The name has a dot, so that no read model can be called so.
pub fn table(process: &'static str) -> Table {
    let name = interned(format!("{process}.saga"));
    Table { name, version: 0, columns: COLUMNS, shadow: false }
}

/// A row as it is stored, without its key.
#[derive(Serialize, Deserialize)]
struct Row {
    slot: u16,
    state: String,
    version: u32,
    status: SagaStatus,
    due: Option<i64>,
    timers: String,
    heard: String,
    plan: Option<String>,
    started_at: i64,
    changed_at: i64,
    position: u64,
    error: Option<String>,
}

fn refused(table: &Table) -> impl Fn(serde_json::Error) -> StoreError {
    let table = table.to_string();
    move |reason| StoreError::Row { table: table.clone(), reason: reason.into() }
}

/// Reads a row. Fails with [`StoreError::Row`] if this program cannot read it.
pub fn read(table: &Table, key: &str, row: &RawValue) -> Result<StoredInstance, StoreError> {
    let refused = refused(table);
    let row: Row = serde_json::from_str(row.get()).map_err(&refused)?;
    let Row { slot, state, version, status, started_at, changed_at, error, .. } = row;
    Ok(StoredInstance {
        key: key.into(),
        slot,
        state,
        version,
        status,
        due: row.due.map(Timestamp::from_micros),
        timers: serde_json::from_str(&row.timers).map_err(&refused)?,
        heard: serde_json::from_str(&row.heard).map_err(&refused)?,
        plan: row.plan.map(|plan| serde_json::from_str(&plan)).transpose().map_err(&refused)?,
        started_at: Timestamp::from_micros(started_at),
        changed_at: Timestamp::from_micros(changed_at),
        position: eventstore_core::Position(row.position),
        error,
    })
}

/// Returns the row of an instance as it is stored.
pub fn written(table: &Table, instance: &StoredInstance) -> Result<Box<RawValue>, StoreError> {
    let refused = refused(table);
    let row = Row {
        slot: instance.slot,
        state: instance.state.clone(),
        version: instance.version,
        status: instance.status,
        due: instance.due.map(|due| due.as_micros()),
        timers: serde_json::to_string(&instance.timers).map_err(&refused)?,
        heard: serde_json::to_string(&instance.heard).map_err(&refused)?,
        plan: instance.plan.as_ref().map(serde_json::to_string).transpose().map_err(&refused)?,
        started_at: instance.started_at.as_micros(),
        changed_at: instance.changed_at.as_micros(),
        position: instance.position.0,
        error: instance.error.as_ref().map(|error| error.replace('\0', "\\0")),
    };
    to_raw_value(&row).map_err(refused)
}

/// Returns a status as it is stored.
pub fn status(status: SagaStatus) -> serde_json::Value {
    serde_json::to_value(status).unwrap_or_default()
}

/// When something is to be done with the instance, if it is changed.
pub fn due(change: &Change) -> Option<Timestamp> {
    match change {
        Change::Put(row) => row.due,
        Change::None | Change::Delete => None,
    }
}

/// Adds what is to be written for an instance.
pub fn add(changes: &mut Changes, key: String, change: Change) -> Result<(), StoreError> {
    match change {
        Change::None => {}
        Change::Put(row) => {
            let row = written(&changes.table, &row)?;
            changes.upserts.push((key, row));
        }
        Change::Delete => changes.deletes.push(key),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_table_is_made_once() {
        let (one, other) = (table("transfer"), table("transfer"));
        assert_eq!(one.name, "transfer.saga");
        assert!(std::ptr::eq(one.name, other.name), "each look at an instance would keep another copy for ever");
        assert_eq!(table("order").name, "order.saga");
    }

    #[test]
    fn the_columns_that_are_compared_are_those() {
        assert_eq!((DUE.name, STATUS.name), ("due", "status"));
    }
}
