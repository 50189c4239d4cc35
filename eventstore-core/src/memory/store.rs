//! The contract of a store over what is in memory.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::value::RawValue;
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    log::place,
    shared::{MemoryStore, PATIENCE},
    tables::{Changed, MemoryTable, shards},
    transaction::MemoryTransaction,
};
use crate::{
    contract::{Append, EventStore, Events, NewTags, Page, Prefix, Read, StoredSnapshot, Tables, Transaction, Written},
    engine::shard::{Checkpoint, Shard},
    error::StoreError,
    event::{Raw, Recorded},
    identity::Identity,
    stream::{Position, StreamHead},
    table::{Rows, Table},
    timestamp::Timestamp,
};

const PAGE: usize = 1_000;

#[async_trait]
impl EventStore for MemoryStore {
    async fn read(&self, read: Read) -> Result<Events, StoreError> {
        read.check()?;
        let limit = read.limit;
        let page = Read { limit: Some(limit.map_or(PAGE, |limit| limit.min(PAGE))), ..read };
        let Page { head, events: first, asked } = {
            let inner = self.inner();
            inner.log.page(&page, inner.log.head())
        };
        let head = page.until.map_or(head, |until| until.min(head));
        let store = self.clone();
        let fetch = move |read: Read| {
            std::future::ready(Ok({
                let inner = store.inner();
                inner.log.page(&read, inner.log.head()).events
            }))
        };
        Ok(Events::paged(head, page, limit, first, fetch).asking(asked))
    }

    async fn append(&self, append: Append) -> Result<Written, StoreError> {
        let _writer = self.writer().await?;
        let written = self.inner().log.append(append, self.clock.now())?;
        self.commit();
        Ok(written)
    }

    async fn find(&self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        let inner = self.inner();
        Ok(inner.log.find(command, inner.log.committed))
    }

    async fn recorded(&self, ids: Vec<Uuid>) -> Result<Vec<Recorded<Raw>>, StoreError> {
        let inner = self.inner();
        let places: BTreeSet<_> = ids.iter().filter_map(|id| inner.log.ids.get(id).copied()).collect();
        let committed = places.into_iter().take_while(|place| *place < inner.log.committed);
        Ok(committed.map(|place| inner.log.events[place].clone()).collect())
    }

    async fn streams(&self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        let inner = self.inner();
        Ok(inner.log.streams(category, after, limit, inner.log.committed))
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError> {
        Ok(self.prefix_at(at).await?.position)
    }

    async fn prefix_at(&self, at: Timestamp) -> Result<Prefix, StoreError> {
        let now = self.clock.now();
        let (prefix, head) = {
            let inner = self.inner();
            (inner.log.prefix_at(at, now, inner.log.committed), inner.log.head())
        };
        if prefix.position < head {
            // A committed event is stamped later than the instant, and an open append later still.
            return Ok(prefix);
        }
        let open = timeout(PATIENCE, self.writer.lock()).await;
        let _writer = open.map_err(|_| StoreError::Busy("an append is open for too long".into()))?;
        let inner = self.inner();
        Ok(inner.log.prefix_at(at, now, inner.log.committed))
    }

    async fn identity(&self) -> Result<Identity, StoreError> {
        Ok(self.identity)
    }

    async fn appended(&self, after: Position) {
        let mut head = self.head.subscribe();
        let _ = timeout(Duration::from_secs(1), head.wait_for(|head| *head > after)).await;
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let writer = self.writer().await?;
        Ok(Box::new(MemoryTransaction::new(self.clone(), writer)))
    }

    async fn retag(&self, events: Vec<NewTags>) -> Result<u64, StoreError> {
        events.iter().try_for_each(NewTags::check)?;
        let _writer = self.writer.lock().await;
        let mut inner = self.inner();
        let mut changed = 0;
        for NewTags { position, id, was, tags } in events {
            let at = place(position).checked_sub(1).and_then(|place| inner.log.events.get_mut(place));
            if let Some(event) = at.filter(|event| event.id == id && event.data.tags == was && was != tags) {
                event.data.tags = tags;
                changed += 1;
            }
        }
        inner.snapshots.retain(|(boundary, _), _| !StoredSnapshot::is_of_tag(boundary));
        Ok(changed)
    }

    async fn snapshot(&self, boundary: &str, kind: &str) -> Result<Option<StoredSnapshot>, StoreError> {
        Ok(self.inner().snapshots.get(&(boundary.into(), kind.into())).cloned())
    }

    async fn keep_snapshot(&self, snapshot: StoredSnapshot, instead_of: Option<u64>) -> Result<bool, StoreError> {
        let key = (snapshot.boundary.clone(), snapshot.kind.clone());
        let mut inner = self.inner();
        let stays = |old: &StoredSnapshot| {
            old.shape == snapshot.shape && old.position >= snapshot.position && instead_of != Some(old.checksum)
        };
        if inner.snapshots.get(&key).is_some_and(stays) {
            return Ok(false);
        }
        inner.snapshots.insert(key, snapshot);
        Ok(true)
    }

    async fn snapshots(&self, kind: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        let inner = self.inner();
        let mut all: Vec<_> = inner.snapshots.values().filter(|snapshot| snapshot.kind == kind).collect();
        all.sort_by(|a, b| (b.position, &a.boundary).cmp(&(a.position, &b.boundary)));
        Ok(all.into_iter().take(limit).map(|snapshot| snapshot.boundary.clone()).collect())
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn database(&self) -> &(dyn Any + Send + Sync) {
        &()
    }
}

#[async_trait]
impl Tables for MemoryStore {
    async fn create(&self, table: &Table) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let new = || MemoryTable { columns: table.columns, rows: BTreeMap::new() };
        let there = inner.tables.0.entry(table.to_string()).or_insert_with(new);
        if !there.lacks(table)?.is_empty() {
            // The new columns include all columns of the table.
            there.columns = table.columns;
        }
        Ok(())
    }

    async fn index(&self, table: &Table) -> Result<(), StoreError> {
        self.inner().tables.table(table).map(drop)
    }

    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        self.inner().tables.rows(&rows, &Changed::new())
    }

    async fn shards(&self, projection: Option<&str>) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        Ok(shards(&self.inner().checkpoints, projection))
    }
}
