//! What is done together on the one connection that writes.

use std::{any::Any, error::Error, sync::Arc};

use async_trait::async_trait;
use eventstore_core::{
    Append, Blame, Changes, Checkpoint, Condition, Invalid, Page, Position, Prefix, Raw, Read, Recorded, Rows, Shard,
    StoreError, StreamHead, StreamId, Timestamp, Transaction, Version, Written,
};
use serde_json::value::RawValue;
use sqlx::SqliteConnection;
use tokio::{runtime::Handle, sync::OwnedMutexGuard};
use uuid::Uuid;

use crate::{
    append::Checked,
    error, read,
    shared::{Shared, Writer},
    tables,
};

/// A transaction of the one connection that writes. Dropped, it rolls back.
pub(crate) struct SqliteTransaction {
    writer: Option<OwnedMutexGuard<Writer>>,
    shared: Arc<Shared>,
    /// The last position it has appended.
    appended: Option<Position>,
    /// Operations that were begun and have not succeeded: while there is one, half of it may be in the transaction.
    unfinished: usize,
}

impl SqliteTransaction {
    pub(crate) async fn begin(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        let writer = shared.writer.clone().lock_owned().await;
        // From here on whoever drops this future has the transaction rolled back, begun or not.
        let mut transaction = Self { writer: Some(writer), shared: shared.clone(), appended: None, unfinished: 0 };
        transaction.writer()?.begin().await?;
        Ok(transaction)
    }

    fn writer(&mut self) -> Result<&mut Writer, StoreError> {
        self.writer.as_deref_mut().ok_or_else(|| StoreError::Unavailable("the transaction is over".into()))
    }

    pub(crate) fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        Ok(&mut self.writer()?.connection)
    }

    /// The connection for an operation, which takes itself off `unfinished` when it has succeeded.
    fn operate(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.unfinished += 1;
        self.connection()
    }

    pub(crate) async fn record(&mut self, append: Checked) -> Result<Written, StoreError> {
        let now = self.shared.clock.now();
        let written = append.record(self.operate()?, now).await;
        if written.as_ref().err().is_none_or(StoreError::is_refusal) {
            self.unfinished -= 1;
        }
        let written = written?;
        if !written.replayed {
            self.appended = Some(written.last);
        }
        Ok(written)
    }

    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        if self.unfinished > 0 {
            self.rollback().await;
            return Err(Invalid::unfinished().into());
        }
        self.writer()?.commit().await?;
        if let Some(last) = self.appended {
            self.shared.head.send_if_modified(|head| {
                let newer = last > *head;
                *head = last.max(*head);
                newer
            });
        }
        Ok(())
    }

    pub(crate) async fn rollback(mut self) {
        if let Ok(writer) = self.writer() {
            writer.rollback().await;
        }
    }
}

impl Drop for SqliteTransaction {
    fn drop(&mut self) {
        let Some(mut writer) = self.writer.take().filter(|writer| writer.open) else { return };
        // Others must not wait for the file until this process writes again. Without a runtime, they do.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { writer.rollback().await });
        }
    }
}

#[async_trait]
impl Transaction for SqliteTransaction {
    async fn lock(&mut self, shard: &Shard) -> Result<Option<Checkpoint>, StoreError> {
        // The write lock of the file is held: nobody else can move any checkpoint.
        let at = tables::lock(self.operate()?, shard).await?;
        self.unfinished -= 1;
        Ok(at)
    }

    async fn lock_projection(&mut self, projection: &str) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        let shards = tables::shards(self.operate()?, Some(projection)).await?;
        self.unfinished -= 1;
        Ok(shards)
    }

    async fn put_shards(&mut self, projection: &str, shards: Vec<(Shard, Checkpoint)>) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        tables::put_shards(self.operate()?, projection, shards, now).await?;
        self.unfinished -= 1;
        Ok(())
    }

    async fn append(&mut self, append: Append) -> Result<Written, StoreError> {
        self.record(Checked::new(append)?).await
    }

    async fn hold(&mut self, _: Vec<(StreamId, Version)>, _: Option<Condition>) -> Result<(), StoreError> {
        // From its beginning on a transaction has the write lock of the file.
        Ok(())
    }

    async fn read(&mut self, read: Read) -> Result<Page, StoreError> {
        let connection = self.connection()?;
        let head = read::head(connection).await?;
        let read = Read { until: Some(read.until.map_or(head, |until| until.min(head))), ..read };
        let (plan, asked) = read::Plan::new(connection, &read.query).await?;
        let events = plan.page(connection, &read).await?;
        Ok(Page { head, events, asked })
    }

    async fn find(&mut self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        read::of_command(self.connection()?, command).await
    }

    async fn streams(&mut self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        read::streams(self.connection()?, category, after, limit).await
    }

    async fn position_at(&mut self, at: Timestamp) -> Result<Position, StoreError> {
        Ok(self.prefix_at(at).await?.position)
    }

    async fn prefix_at(&mut self, at: Timestamp) -> Result<Prefix, StoreError> {
        let now = self.shared.clock.now();
        read::prefix_under_lock(self.connection()?, at, now).await
    }

    async fn rows(&mut self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        let rows = tables::rows(self.operate()?, rows).await;
        // A read of a table that is not there leaves the transaction as it was.
        if matches!(rows, Ok(_) | Err(StoreError::NotBuilt { .. } | StoreError::Columns { .. })) {
            self.unfinished -= 1;
        }
        rows
    }

    async fn write(&mut self, changes: Changes) -> Result<(), StoreError> {
        tables::write(self.operate()?, changes).await?;
        self.unfinished -= 1;
        Ok(())
    }

    async fn swap(&mut self, table: &str) -> Result<(), StoreError> {
        tables::swap(self.operate()?, table).await?;
        self.unfinished -= 1;
        Ok(())
    }

    async fn publish(&mut self, name: &str, table: &str) -> Result<(), StoreError> {
        tables::publish(self.operate()?, name, table).await?;
        self.unfinished -= 1;
        Ok(())
    }

    async fn remove(&mut self, table: &str) -> Result<(), StoreError> {
        tables::remove(self.operate()?, table).await?;
        self.unfinished -= 1;
        Ok(())
    }

    async fn advance(&mut self, shard: &Shard, to: Position, event: Option<Uuid>) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        tables::advance(self.operate()?, shard, to, event, now).await?;
        self.unfinished -= 1;
        Ok(())
    }

    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        Some(&mut self.writer.as_deref_mut()?.connection)
    }

    fn blame(&self, error: &(dyn Error + 'static)) -> Option<Blame> {
        error::blame(error)
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Self::commit(*self).await
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        Self::rollback(*self).await;
        Ok(())
    }
}
