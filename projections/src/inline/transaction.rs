//! A transaction whose appends keep rows.

use std::{
    any::Any,
    collections::HashMap,
    error::Error,
    sync::{Arc, PoisonError},
};

use async_trait::async_trait;
use eventstore_core::{
    Append, Blame, Changes, Checkpoint, Condition, Invalid, NewEvent, Page, Position, Prefix, Raw, Read, Recorded,
    Rows, Shard, StoreError, StreamHead, StreamId, Timestamp, Transaction, Version, Written,
};
use eventstore_engine::run::page::DecodedPage;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::kept::{BATCH, Kept, Places, behind};

/// Makes the recorded events of an append.
fn recorded(events: Vec<(StreamId, NewEvent)>, written: &Written) -> Vec<Recorded<Raw>> {
    let mut versions: HashMap<_, _> = written.streams.iter().cloned().collect();
    // Backwards from the last event: `written` has the last version of each stream.
    let events = events.into_iter().rev().zip((written.first.0..=written.last.0).rev());
    let mut recorded: Vec<_> = events
        .map(|((stream, event), position)| {
            let version = versions.get_mut(&stream).map_or_else(Default::default, |version| {
                let this = *version;
                version.0 -= 1;
                this
            });
            event.recorded(stream, version, Position(position), written.recorded_at)
        })
        .collect();
    recorded.reverse();
    recorded
}

/// A transaction whose appends keep rows.
pub(super) struct InlineTransaction {
    pub(super) inner: Box<dyn Transaction>,
    pub(super) kept: Arc<[Arc<Kept>]>,
    /// Whether it may have an append without its rows.
    pub(super) unfinished: bool,
    /// Positions and epochs without parked keys, to store in [`Kept::free`] after the commit.
    pub(super) free: Vec<(Arc<Kept>, Option<Places>)>,
}

impl InlineTransaction {
    /// Appends all and updates the rows. Returns `None`, having kept no rows, if the rows lag more than `gap` events:
    /// the caller rolls back. A refused append is an `Err` in its own slot and does not affect the others.
    pub(super) async fn append_all(
        &mut self,
        appends: Vec<Append>,
        gap: u64,
    ) -> Result<Option<Vec<Result<Written, StoreError>>>, StoreError> {
        let kept = self.kept.clone();
        let mut all = vec![];
        self.unfinished = true;
        for kept in &*kept {
            all.push(kept.lock(&mut *self.inner).await?);
        }
        let (mut results, mut new) = (vec![], vec![]);
        for append in appends {
            let events = append.events().map(|(stream, event)| (stream.clone(), event.clone())).collect();
            let written = match self.inner.append(append).await {
                Err(error) if !error.is_refusal() => return Err(error),
                written => written,
            };
            if let Ok(written) = &written
                && !written.replayed
            {
                new.extend(recorded(events, written));
            }
            results.push(written);
        }
        // Events of a replayed append were recorded before: they are in the rows, or are processed like those of other
        // stores.
        if let (Some(first), Some(last)) = (new.first(), new.last()) {
            let (before, until, id) = (Position(first.position.0 - 1), last.position, Some(last.id));
            if all.iter().any(|shards| before.0.saturating_sub(behind(shards).0) > gap) {
                return Ok(None);
            }
            let page = DecodedPage::new(before, until, id, new);
            self.free.clear();
            for (kept, mut shards) in kept.iter().zip(all) {
                if behind(&shards) < before {
                    while kept.gap(&mut *self.inner, Some(before), BATCH).await? {}
                    shards = kept.lock(&mut *self.inner).await?;
                }
                let free = kept.process(&mut *self.inner, &mut shards, &page, Kept::refused).await?;
                self.free.push((kept.clone(), free));
            }
        }
        self.unfinished = false;
        Ok(Some(results))
    }

    pub(super) async fn commit(self) -> Result<(), StoreError> {
        if self.unfinished {
            self.inner.rollback().await?;
            return Err(Invalid::unfinished().into());
        }
        self.inner.commit().await?;
        for (kept, free) in self.free {
            *kept.free.lock().unwrap_or_else(PoisonError::into_inner) = free;
        }
        Ok(())
    }
}

#[async_trait]
impl Transaction for InlineTransaction {
    async fn append(&mut self, append: Append) -> Result<Written, StoreError> {
        append.check()?;
        if self.unfinished {
            return Err(Invalid::unfinished().into());
        }
        let results = self.append_all(vec![append], u64::MAX).await?;
        results.and_then(|mut results| results.pop()).unwrap_or_else(|| Err(Invalid::unfinished().into()))
    }

    async fn hold(
        &mut self,
        unchanged: Vec<(StreamId, Version)>,
        condition: Option<Condition>,
    ) -> Result<(), StoreError> {
        // All transactions lock the shards before the log.
        for kept in &*self.kept.clone() {
            kept.lock(&mut *self.inner).await?;
        }
        self.inner.hold(unchanged, condition).await
    }

    async fn holds(&mut self) -> Result<bool, StoreError> {
        self.inner.holds().await
    }

    async fn time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.time().await
    }

    async fn lock(&mut self, shard: &Shard) -> Result<Option<Checkpoint>, StoreError> {
        self.inner.lock(shard).await
    }

    async fn lock_projection(&mut self, projection: &str) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        self.inner.lock_projection(projection).await
    }

    async fn put_shards(&mut self, projection: &str, shards: Vec<(Shard, Checkpoint)>) -> Result<(), StoreError> {
        self.inner.put_shards(projection, shards).await
    }

    async fn read(&mut self, read: Read) -> Result<Page, StoreError> {
        self.inner.read(read).await
    }

    async fn find(&mut self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        self.inner.find(command).await
    }

    async fn streams(&mut self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        self.inner.streams(category, after, limit).await
    }

    async fn position_at(&mut self, at: Timestamp) -> Result<Position, StoreError> {
        self.inner.position_at(at).await
    }

    async fn prefix_at(&mut self, at: Timestamp) -> Result<Prefix, StoreError> {
        self.inner.prefix_at(at).await
    }

    async fn rows(&mut self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        self.inner.rows(rows).await
    }

    async fn write(&mut self, changes: Changes) -> Result<(), StoreError> {
        self.inner.write(changes).await
    }

    async fn swap(&mut self, table: &str) -> Result<(), StoreError> {
        self.inner.swap(table).await
    }

    async fn publish(&mut self, name: &str, table: &str) -> Result<(), StoreError> {
        self.inner.publish(name, table).await
    }

    async fn remove(&mut self, table: &str) -> Result<(), StoreError> {
        self.inner.remove(table).await
    }

    async fn advance(&mut self, shard: &Shard, to: Position, event: Option<Uuid>) -> Result<(), StoreError> {
        self.inner.advance(shard, to, event).await
    }

    async fn lend(&mut self) -> Result<(), StoreError> {
        self.inner.lend().await
    }

    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        // A caller may roll back to a savepoint, and with it appends and the positions of shards.
        self.free.iter_mut().for_each(|(_, free)| *free = None);
        self.inner.connection()
    }

    fn returned(&mut self) {
        self.inner.returned();
    }

    async fn check(&mut self) -> Result<(), StoreError> {
        self.inner.check().await
    }

    fn blame(&self, error: &(dyn Error + 'static)) -> Option<Blame> {
        self.inner.blame(error)
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Self::commit(*self).await
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.rollback().await
    }
}
