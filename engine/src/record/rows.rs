//! The table of processors, and how the engine's tables are read and changed.

use std::{collections::BTreeMap, time::Duration};

pub use eventstore_core::engine::{PROCESSORS, ProcessorRow as Row, ProcessorState};
use eventstore_core::{
    Changes, Checkpoint, EventStore, Order, Position, Query, Read, Rows, Shard, StoreError, Table, Timestamp,
    Transaction,
};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{
    Value as Json,
    value::{RawValue, to_raw_value},
};

fn refused(table: &Table) -> impl Fn(serde_json::Error) -> StoreError {
    let table = table.to_string();
    move |reason| StoreError::Row { table: table.clone(), reason: reason.into() }
}

/// Returns all rows of a table that this program can read, by key. A row that another release has written in a form of
/// its own is left out, so that one row does not keep a node from all others.
pub async fn rows<T: DeserializeOwned>(
    store: &dyn EventStore,
    table: &Table,
) -> Result<BTreeMap<String, T>, StoreError> {
    Ok(read_rows(table, all(store, table).await?))
}

/// Reads rows, as [`rows`] does.
pub fn read_rows<T: DeserializeOwned>(table: &Table, rows: Vec<(String, Box<RawValue>)>) -> BTreeMap<String, T> {
    let read = |(key, row): (String, Box<RawValue>)| match serde_json::from_str(row.get()) {
        Ok(row) => Some((key, row)),
        Err(error) => {
            tracing::debug!(%table, key, %error, "a row of another release is ignored");
            None
        }
    };
    rows.into_iter().filter_map(read).collect()
}

/// Returns all rows of a table.
pub async fn all(store: &dyn EventStore, table: &Table) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
    store.rows(whole(table)).await
}

/// Returns a request for all rows of a table.
pub fn whole(table: &Table) -> Rows {
    Rows::Where { table: *table, equal: vec![], order: Order::default(), limit: None }
}

/// Reads a value of an engine's row, or the default if another release has written it in a form of its own.
pub(crate) fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(value: D) -> Result<T, D::Error> {
    let value = Json::deserialize(value)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// Writes one row, in a transaction of its own.
pub async fn write<T: Serialize>(store: &dyn EventStore, table: &Table, key: &str, row: &T) -> Result<(), StoreError> {
    change(store, upsert(table, key, row)?).await
}

/// Returns the changes that write one row.
pub(crate) fn upsert<T: Serialize>(table: &Table, key: &str, row: &T) -> Result<Changes, StoreError> {
    let row = to_raw_value(row).map_err(refused(table))?;
    Ok(Changes { table: *table, upserts: vec![(key.into(), row)], deletes: vec![] })
}

/// Returns the changes that remove one row.
pub(crate) fn delete(table: &Table, key: &str) -> Changes {
    Changes { table: *table, upserts: vec![], deletes: vec![key.into()] }
}

/// Returns a request for one row.
pub fn key(table: &Table, key: &str) -> Rows {
    Rows::Keys { table: *table, keys: vec![key.into()] }
}

/// Returns the first row that was found. [`StoreError::Row`] if it cannot be read.
pub fn first<T: DeserializeOwned>(table: &Table, found: Vec<(String, Box<RawValue>)>) -> Result<Option<T>, StoreError> {
    found.first().map(|(_, row)| serde_json::from_str(row.get()).map_err(refused(table))).transpose()
}

/// Makes changes, in a transaction of its own.
pub async fn change(store: &dyn EventStore, changes: Changes) -> Result<(), StoreError> {
    let mut transaction = store.begin().await?;
    transaction.write(changes).await?;
    transaction.commit().await
}

/// Returns the row of a processor, as a transaction sees it.
pub async fn row(transaction: &mut dyn Transaction, projection: &str) -> Result<Option<Row>, StoreError> {
    first(&PROCESSORS, transaction.rows(key(&PROCESSORS, projection)).await?)
}

/// Writes the row of a processor, in a transaction that has locked it.
pub async fn put(transaction: &mut dyn Transaction, projection: &str, row: &Row) -> Result<(), StoreError> {
    transaction.write(upsert(&PROCESSORS, projection, row)?).await
}

/// Locks a processor and raises the epochs of some of its shards, so that their nodes begin again with what is stored
/// then. Returns all its shards with the new epochs.
pub async fn begin_again(
    transaction: &mut dyn Transaction,
    projection: &str,
    which: impl Fn(&Shard) -> bool + Send,
) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
    let mut shards = transaction.lock_projection(projection).await?;
    shards.iter_mut().filter(|(shard, _)| which(shard)).for_each(|(_, at)| at.epoch += 1);
    transaction.put_shards(projection, shards.clone()).await?;
    Ok(shards)
}

/// Changes the row of a processor, in a transaction that has locked the processor. Does nothing if the processor was
/// discarded.
pub async fn update(
    store: &dyn EventStore,
    projection: &str,
    change: impl FnOnce(&mut Row) + Send,
) -> Result<(), StoreError> {
    let change = |row: &mut Row, _: &[(Shard, Checkpoint)]| {
        change(row);
        true
    };
    update_if(store, projection, change).await.map(drop)
}

/// Stores the position at which a processor is built, before there is a table that a reader could find. Returns the row
/// of the processor.
pub async fn begin(store: &dyn EventStore, name: &str) -> Result<Row, StoreError> {
    let head = Read { query: Query::all(), limit: Some(0), ..Read::default() };
    let head = store.read(head).await?.head;
    let mut transaction = store.begin().await?;
    let shards = transaction.lock_projection(name).await?;
    let known = match row(&mut *transaction, name).await? {
        Some(known) => known,
        None => {
            // A processor with shards but no row ran before rows were kept: it counts as built.
            let new = Row::new(store.now(), if shards.is_empty() { head } else { Position(0) });
            put(&mut *transaction, name, &new).await?;
            new
        }
    };
    transaction.commit().await?;
    Ok(known)
}

/// As [`update`]; `change` also sees the shards. Writes nothing if `change` returns `false`. Returns the row as it is stored then, and whether it was
/// written; `None` if the processor was discarded.
pub(crate) async fn update_if(
    store: &dyn EventStore,
    projection: &str,
    change: impl FnOnce(&mut Row, &[(Shard, Checkpoint)]) -> bool + Send,
) -> Result<Option<(Row, bool)>, StoreError> {
    let mut transaction = store.begin().await?;
    let shards = transaction.lock_projection(projection).await?;
    let known = row(&mut *transaction, projection).await?;
    // A processor with shards but no row ran before rows were kept.
    let known = known.or_else(|| (!shards.is_empty()).then(|| Row::new(store.now(), Position(0))));
    let Some(mut known) = known else {
        transaction.rollback().await?;
        return Ok(None);
    };
    let written = change(&mut known, &shards);
    if written {
        put(&mut *transaction, projection, &known).await?;
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    Ok(Some((known, written)))
}

/// Returns `now`, or the instant just after `before` if the clock of this machine is not past it. Nodes compare such
/// instants for equality and order only.
pub fn later(before: Timestamp, now: Timestamp) -> Timestamp {
    now.max(before + Duration::from_micros(1))
}

/// Gives a processor another state. `since` then differs from what it was, whatever the clock of this machine says:
/// nodes compare it, to find out that the processor was made active again.
pub fn turn_to(row: &mut Row, state: ProcessorState, reason: Option<&str>, now: Timestamp) {
    let since = later(row.since, now);
    let reason = reason.map(|reason| reason.replace('\0', "\\0"));
    (row.state, row.reason, row.since, row.cause) = (state, reason, since, None);
}

/// Stores that a processor is built: it has come to where the log ended when it began. Does nothing if it has not.
pub async fn mark_built(store: &dyn EventStore, projection: &str) -> Result<(), StoreError> {
    let now = store.now();
    // It may have been told to begin again since it came so far.
    let change = |row: &mut Row, shards: &[(Shard, Checkpoint)]| {
        let built = row.word.is_none() && shards.iter().all(|(_, at)| at.position.0 >= row.target);
        row.built_at = row.built_at.or(built.then_some(now));
        built
    };
    update_if(store, projection, change).await.map(drop)
}

/// Returns the row of a processor, outside of any transaction.
pub async fn known(store: &dyn EventStore, projection: &str) -> Result<Option<Row>, StoreError> {
    first(&PROCESSORS, store.rows(key(&PROCESSORS, projection)).await?)
}

/// Returns what was found, or the default if the table was never made.
pub fn if_built<T: Default>(found: Result<T, StoreError>) -> Result<T, StoreError> {
    match found {
        Err(StoreError::NotBuilt { .. }) => Ok(T::default()),
        found => found,
    }
}

/// Returns names as a list for people.
pub fn list<T: AsRef<str>>(names: &[T]) -> String {
    match names {
        [] => "none".into(),
        names => names.iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use eventstore_core::{MemoryStore, Store};

    use super::*;

    #[tokio::test]
    async fn p10_what_was_discarded_does_not_come_back_and_what_begins_again_is_not_built() -> Result<(), StoreError> {
        let store = Store::from(MemoryStore::new());
        let store = store.as_ref();
        store.create(&PROCESSORS).await?;
        mark_built(store, "p@1~shadow").await?;
        update(store, "p@1~shadow", |row| row.pace = Some(1)).await?;
        assert_eq!(known(store, "p@1~shadow").await?, None);

        write(store, &PROCESSORS, "p", &Row::new(store.now(), Position(0))).await?;
        mark_built(store, "p").await?;
        assert!(known(store, "p").await?.is_some_and(|row| row.built_at.is_some()));
        let again = |row: &mut Row| (row.built_at, row.word) = (None, Some("rebuild".into()));
        update(store, "p", again).await?;
        mark_built(store, "p").await?;
        assert!(known(store, "p").await?.is_some_and(|row| row.built_at.is_none()), "it has not begun again yet");
        Ok(())
    }

    #[test]
    fn a_state_has_another_since_whatever_the_clock_says() {
        let mut row = Row::new(Timestamp::from_micros(7), Position(0));
        for now in [7, 3, 8, 8, 1_000] {
            let before = row.since;
            turn_to(&mut row, ProcessorState::Active, None, Timestamp::from_micros(now));
            assert!(row.since > before && row.since >= Timestamp::from_micros(now));
        }
    }
}
