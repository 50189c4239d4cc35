//! What is done together on the one connection that writes.

use std::{any::Any, error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use eventstore_core::{
    Append, Blame, Changes, Checkpoint, Condition, Invalid, Page, Position, Prefix, Raw, Read, Recorded, Rows, Shard,
    StoreError, StreamHead, StreamId, Timestamp, Transaction, Version, Written,
};
use serde_json::value::RawValue;
use sqlx::SqliteConnection;
use tokio::{runtime::Handle, sync::OwnedMutexGuard, time::timeout};
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
    /// Whether a caller has had the connection.
    lent: bool,
    /// Whether SQLite rolled all of it back when an operation failed: the disk is full, or fails.
    lost: bool,
}

/// How long the connection that writes may be another's.
const PATIENCE: Duration = Duration::from_secs(10);

/// An operation: it is done whole, or the transaction cannot be committed any more; also if its future is dropped.
macro_rules! operation {
    ($transaction:ident, |$connection:ident| $operation:expr) => {{
        let $connection = $transaction.operate()?;
        let done = $operation.await;
        $transaction.done(&done);
        done
    }};
}

impl SqliteTransaction {
    pub(crate) async fn begin(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        // An append that is awaited in a transaction it is no part of would wait for ever.
        let writer = timeout(PATIENCE, shared.writer.clone().lock_owned()).await;
        let writer = writer.map_err(|_| StoreError::Busy("another transaction of this process is open".into()))?;
        let (shared, appended) = (shared.clone(), None);
        // From here on a future that is dropped has the transaction rolled back, begun or not.
        let mut transaction = Self { writer: Some(writer), shared, appended, unfinished: 0, lent: false, lost: false };
        transaction.writer()?.begin().await?;
        Ok(transaction)
    }

    fn writer(&mut self) -> Result<&mut Writer, StoreError> {
        self.writer.as_deref_mut().ok_or_else(|| StoreError::Unavailable("the transaction is over".into()))
    }

    /// The connection; fails if the transaction that was begun is over.
    pub(crate) fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        let (lent, lost) = (self.lent, self.lost);
        let writer = self.writer()?;
        match writer.has_ended() {
            true if lent && !lost => Err(StoreError::Ended),
            true => Err(StoreError::Unavailable("SQLite has rolled the transaction back: begin it again".into())),
            false => writer.connection(),
        }
    }

    /// The connection for an operation, which says that it is [`done`](Self::done) unless it is dropped.
    fn operate(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.connection()?;
        self.unfinished += 1;
        self.connection()
    }

    /// Takes note of what an operation has come to.
    fn done<T>(&mut self, done: &Result<T, StoreError>) {
        match done {
            Err(error) if !error.is_refusal() => {
                self.lost |= self.writer.as_ref().is_none_or(|writer| writer.has_ended());
            }
            _ => self.unfinished -= 1,
        }
    }

    pub(crate) async fn record(&mut self, append: Checked) -> Result<Written, StoreError> {
        let now = self.shared.clock.now();
        let written = operation!(self, |connection| append.record(connection, now))?;
        if !written.replayed {
            self.appended = Some(written.last);
        }
        Ok(written)
    }

    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        let over = self.connection().err();
        if over.is_some() || self.unfinished > 0 {
            self.rollback().await;
            return Err(over.unwrap_or_else(|| Invalid::unfinished().into()));
        }
        if self.lent && self.appended.is_some() {
            // A caller may have rolled back to a savepoint.
            self.appended = Some(read::head(self.connection()?).await?);
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
        // Others do not wait for the file until this process writes again.
        match Handle::try_current() {
            Ok(runtime) => _ = runtime.spawn(async move { writer.rollback().await }),
            Err(_) => writer.start_rollback(),
        }
    }
}

#[async_trait]
impl Transaction for SqliteTransaction {
    async fn lock(&mut self, shard: &Shard) -> Result<Option<Checkpoint>, StoreError> {
        // The write lock of the file is held: no other connection can move a checkpoint.
        operation!(self, |connection| tables::lock(connection, shard))
    }

    async fn lock_projection(&mut self, projection: &str) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        operation!(self, |connection| tables::shards(connection, Some(projection)))
    }

    async fn put_shards(&mut self, projection: &str, shards: Vec<(Shard, Checkpoint)>) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        operation!(self, |connection| tables::put_shards(connection, projection, shards, now))
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
        let rows = operation!(self, |connection| tables::rows(connection, rows));
        // A read of a table that is not there leaves the transaction as it was.
        if matches!(rows, Err(StoreError::NotBuilt { .. } | StoreError::Columns { .. } | StoreError::Schema(_))) {
            self.unfinished -= 1;
        }
        rows
    }

    async fn write(&mut self, changes: Changes) -> Result<(), StoreError> {
        operation!(self, |connection| tables::write(connection, changes))
    }

    async fn swap(&mut self, table: &str) -> Result<(), StoreError> {
        operation!(self, |connection| tables::swap(connection, table))
    }

    async fn publish(&mut self, name: &str, table: &str) -> Result<(), StoreError> {
        operation!(self, |connection| tables::publish(connection, name, table))
    }

    async fn remove(&mut self, table: &str) -> Result<(), StoreError> {
        operation!(self, |connection| tables::remove(connection, table))
    }

    async fn advance(&mut self, shard: &Shard, to: Position, event: Option<Uuid>) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        operation!(self, |connection| tables::advance(connection, shard, to, event, now))
    }

    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        self.lent = true;
        let writer = self.writer.as_deref_mut()?;
        writer.lent = true;
        Some(writer.connection().ok()?)
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
