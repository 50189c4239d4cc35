//! What the promises share: events, appends, reads of the whole log, a shard and a table.

use std::{collections::HashMap, sync::Arc};

use futures::TryStreamExt;
use serde_json::value::to_raw_value;
use uuid::Uuid;

use crate::{
    Append, Changes, Checkpoint, Column, Condition, Conflict, EventStore, Events, Expected, Kind, Metadata, NewEvent,
    Position, Query, Raw, Read, Recorded, Rows, Shard, StoreError, StreamId, Table, Tag, Timestamp, Transaction,
    Version, Write, Written,
};

pub(super) type Fresh = Arc<dyn EventStore>;

pub(super) fn event(name: &str) -> NewEvent {
    let metadata = Metadata { command_id: Uuid::now_v7(), ..Metadata::default() };
    let metadata = Metadata { correlation_id: metadata.command_id, ..metadata };
    let data = Raw { name: name.into(), tags: vec![], body: b"{}".to_vec() };
    NewEvent { id: Uuid::now_v7(), schema: 1, occurred_at: None, metadata, data }
}

pub(super) fn tagged(name: &str, tags: &[(&'static str, &str)]) -> NewEvent {
    let mut event = event(name);
    event.data.tags = tags.iter().map(|(name, key)| Tag::new(*name, key)).collect();
    event
}

pub(super) fn stream(key: &str) -> StreamId {
    StreamId::new("thing", key)
}

pub(super) fn to(stream: &StreamId, expected: Expected, events: impl IntoIterator<Item = NewEvent>) -> Append {
    let write = Write { stream: stream.clone(), expected, events: events.into_iter().collect() };
    Append { writes: vec![write], ..Append::default() }
}

pub(super) fn and(mut append: Append, other: Append) -> Append {
    append.writes.extend(other.writes);
    append
}

pub(super) fn any(stream: &StreamId, events: impl IntoIterator<Item = NewEvent>) -> Append {
    to(stream, Expected::Any, events)
}

pub(super) fn unless(query: Query, after: u64, append: Append) -> Append {
    Append { condition: Some(Condition { query, after: Position(after) }), ..append }
}

pub(super) async fn read(store: &Fresh, read: Read) -> Vec<Recorded<Raw>> {
    store.read(read).await.unwrap().events.try_collect().await.unwrap()
}

pub(super) async fn matching(store: &Fresh, query: impl Into<Query>) -> Vec<u64> {
    let found = read(store, Read { query: query.into(), ..Read::default() }).await;
    found.iter().map(|event| event.position.0).collect()
}

/// Returns the whole log. Panics if a position or a version is missing, doubled or out of order, or if time goes back.
pub(super) async fn whole(store: &Fresh) -> Vec<Recorded<Raw>> {
    let Events { head, events, .. } = store.read(Read { query: Query::all(), ..Read::default() }).await.unwrap();
    let log: Vec<_> = events.try_collect().await.unwrap();
    assert_eq!(head, Position(log.len() as u64), "the head is the last position");
    let mut versions = HashMap::<_, u64>::new();
    let mut time = Timestamp::MIN;
    for (event, n) in log.iter().zip(1..) {
        let version = versions.entry(event.stream.clone()).or_default();
        *version += 1;
        assert_eq!((event.position, event.version), (Position(n), Version(*version)), "in {}", event.stream);
        assert!(time <= event.recorded_at, "time goes back at {n}");
        time = event.recorded_at;
    }
    log
}

pub(super) fn conflict(result: Result<Written, StoreError>) -> Conflict {
    match result {
        Err(StoreError::Conflict(conflict)) => conflict,
        other => panic!("a conflict was expected: {other:?}"),
    }
}

/// Locks all shards of a processor, and makes one shard if there is none. Returns that shard and its position.
pub(super) async fn lock(transaction: &mut dyn Transaction, projection: &str) -> (Shard, Position) {
    if transaction.lock_projection(projection).await.unwrap().is_empty() {
        let new = vec![(Shard::whole(projection), Checkpoint::default())];
        transaction.put_shards(projection, new).await.unwrap();
    }
    let shard = Shard::whole(projection);
    let at = transaction.lock(&shard).await.unwrap().expect("it is there");
    (shard, at.position)
}

pub(super) const TABLE: Table = Table {
    shadow: false,
    name: "sample",
    version: 3,
    columns: &[
        Column { name: "text", kind: Kind::Text, index: true, optional: false },
        Column::new("integer", Kind::Integer),
        Column::new("real", Kind::Real),
        Column { name: "bool", kind: Kind::Bool, index: true, optional: false },
        Column::new("uuid", Kind::Uuid),
        Column::new("time", Kind::Time),
        Column::new("order", Kind::Json),
    ],
};

pub(super) async fn write(store: &Fresh, rows: &[(&str, serde_json::Value)], deletes: &[&str]) {
    let upserts = rows.iter().map(|(key, row)| ((*key).to_owned(), to_raw_value(row).unwrap())).collect();
    let deletes = deletes.iter().map(|key| (*key).to_owned()).collect();
    let mut transaction = store.begin().await.unwrap();
    transaction.write(Changes { table: TABLE, upserts, deletes }).await.unwrap();
    transaction.commit().await.unwrap();
}

pub(super) async fn rows(store: &Fresh, rows: Rows) -> Vec<(String, serde_json::Value)> {
    let rows = store.rows(rows).await.unwrap();
    rows.into_iter().map(|(key, row)| (key, serde_json::from_str(row.get()).unwrap())).collect()
}
