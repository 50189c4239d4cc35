//! A transaction in memory.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    mem::take,
};

use async_trait::async_trait;
use serde_json::value::RawValue;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::{
    shared::MemoryStore,
    tables::{Changed, shards},
};
use crate::{
    contract::{Append, Changes, Condition, Page, Prefix, Read, Transaction, Written},
    engine::shard::{Checkpoint, Shard},
    error::StoreError,
    event::{Raw, Recorded},
    invalid::Invalid,
    stream::{Position, StreamHead, StreamId, Version},
    table::{Rows, SHADOW},
    timestamp::Timestamp,
};

/// Appends behind the committed events, and keeps its other changes until the commit.
pub(super) struct MemoryTransaction {
    store: MemoryStore,
    changed: Changed,
    /// The tables that get another name, or none if they are removed. Readers see it after the commit.
    moved: Vec<(String, Option<String>)>,
    checkpoints: BTreeMap<Shard, Checkpoint>,
    /// Whether an operation has failed. No operation can be half done: none has an await.
    failed: bool,
    _writer: OwnedMutexGuard<()>,
}

impl MemoryTransaction {
    pub(super) fn new(store: MemoryStore, writer: OwnedMutexGuard<()>) -> Self {
        let checkpoints = store.inner().checkpoints.clone();
        Self { store, changed: HashMap::new(), moved: vec![], checkpoints, failed: false, _writer: writer }
    }

    fn noting<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.failed |= result.as_ref().is_err_and(|error| !error.is_refusal());
        result
    }

    fn put(&mut self, changes: Changes) -> Result<(), StoreError> {
        let inner = self.store.inner();
        let there = inner.tables.table(&changes.table)?;
        changes.check()?;
        let changed = self.changed.entry(changes.table.to_string()).or_default();
        for (key, row) in changes.upserts {
            let before = changed.get(&key).map_or_else(|| there.rows.get(&key), Option::as_ref);
            let row = there.with_others(&changes.table, before.map(|row| &**row), row)?;
            changed.insert(key, Some(row));
        }
        changed.extend(changes.deletes.into_iter().map(|key| (key, None)));
        Ok(())
    }
}

impl Drop for MemoryTransaction {
    fn drop(&mut self) {
        let mut inner = self.store.inner();
        while inner.log.events.len() > inner.log.committed {
            inner.log.pop();
        }
    }
}

#[async_trait]
impl Transaction for MemoryTransaction {
    async fn lock(&mut self, shard: &Shard) -> Result<Option<Checkpoint>, StoreError> {
        Ok(self.checkpoints.get(shard).copied())
    }

    async fn lock_projection(&mut self, projection: &str) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        Ok(shards(&self.checkpoints, Some(projection)))
    }

    async fn put_shards(&mut self, projection: &str, shards: Vec<(Shard, Checkpoint)>) -> Result<(), StoreError> {
        self.checkpoints.retain(|shard, _| shard.projection != projection);
        self.checkpoints.extend(shards);
        Ok(())
    }

    async fn append(&mut self, append: Append) -> Result<Written, StoreError> {
        let written = self.store.inner().log.append(append, self.store.clock.now());
        self.noting(written)
    }

    async fn hold(&mut self, _: Vec<(StreamId, Version)>, _: Option<Condition>) -> Result<(), StoreError> {
        // A transaction keeps other callers from appending from its beginning on.
        Ok(())
    }

    async fn read(&mut self, read: Read) -> Result<Page, StoreError> {
        let inner = self.store.inner();
        let head = Position(inner.log.events.len() as u64);
        Ok(inner.log.page(&read, head))
    }

    async fn find(&mut self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        let inner = self.store.inner();
        Ok(inner.log.find(command, inner.log.events.len()))
    }

    async fn streams(&mut self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        let inner = self.store.inner();
        Ok(inner.log.streams(category, after, limit, inner.log.events.len()))
    }

    async fn position_at(&mut self, at: Timestamp) -> Result<Position, StoreError> {
        Ok(self.prefix_at(at).await?.position)
    }

    async fn prefix_at(&mut self, at: Timestamp) -> Result<Prefix, StoreError> {
        let inner = self.store.inner();
        Ok(inner.log.prefix_at(at, self.store.clock.now(), inner.log.events.len()))
    }

    async fn rows(&mut self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        self.store.inner().tables.rows(&rows, &self.changed)
    }

    async fn write(&mut self, changes: Changes) -> Result<(), StoreError> {
        let put = self.put(changes);
        self.noting(put)
    }

    async fn swap(&mut self, table: &str) -> Result<(), StoreError> {
        let shadow = format!("{table}{SHADOW}");
        let there = [table, &shadow].map(|table| self.store.inner().tables.named(table).map(drop));
        let there = there.into_iter().collect::<Result<(), _>>();
        self.noting(there)?;
        self.moved.extend([(table.into(), Some(shadow.clone())), (shadow, Some(table.into()))]);
        Ok(())
    }

    async fn publish(&mut self, _: &str, table: &str) -> Result<(), StoreError> {
        // There is no SQL, and so no view.
        let there = self.store.inner().tables.named(table).map(drop);
        self.noting(there)
    }

    async fn remove(&mut self, table: &str) -> Result<(), StoreError> {
        self.moved.push((table.into(), None));
        Ok(())
    }

    async fn advance(&mut self, shard: &Shard, to: Position, event: Option<Uuid>) -> Result<(), StoreError> {
        if let Some(event) = event {
            let there = self.store.inner().log.ids.get(&event).is_some_and(|place| *place as u64 + 1 == to.0);
            self.noting(if there { Ok(()) } else { Err(StoreError::Forked { position: to, event: Some(event) }) })?;
        }
        if let Some(checkpoint) = self.checkpoints.get_mut(shard).filter(|checkpoint| checkpoint.position < to) {
            (checkpoint.position, checkpoint.event) = (to, event);
        }
        Ok(())
    }

    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        None
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        if self.failed {
            return Err(Invalid::unfinished().into());
        }
        let (changed, checkpoints) = (take(&mut self.changed), take(&mut self.checkpoints));
        {
            let mut inner = self.store.inner();
            for (table, changed) in changed {
                let Some(table) = inner.tables.0.get_mut(&table) else { continue };
                for (key, row) in changed {
                    match row {
                        Some(row) => table.rows.insert(key, row),
                        None => table.rows.remove(&key),
                    };
                }
            }
            inner.checkpoints = checkpoints;
            let moved: Vec<_> =
                take(&mut self.moved).into_iter().map(|(from, to)| (inner.tables.0.remove(&from), to)).collect();
            inner.tables.0.extend(moved.into_iter().filter_map(|(table, to)| to.zip(table)));
        }
        self.store.commit();
        Ok(())
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}
