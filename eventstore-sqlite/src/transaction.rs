//! A transaction: operations that commit together on the one connection that writes.

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

/// A transaction of the one connection that writes. If it is dropped, it rolls back.
pub(crate) struct SqliteTransaction {
    writer: Option<OwnedMutexGuard<Writer>>,
    shared: Arc<Shared>,
    /// The last position it has appended.
    appended: Option<Position>,
    /// How many operations have begun and not succeeded. Half of such an operation may be in the transaction.
    unfinished: usize,
    /// Whether the connection was lent to a caller.
    lent: bool,
    /// Whether SQLite rolled the whole transaction back when an operation failed, as it does when the disk is full or
    /// fails.
    lost: bool,
}

/// How long a transaction waits for the connection that writes.
const WRITER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs an operation that either completes or keeps the transaction from being committed, also if its future is
/// dropped.
macro_rules! operation {
    ($transaction:ident, |$connection:ident| $operation:expr) => {{
        let $connection = $transaction.begin_operation()?;
        let done = $operation.await;
        $transaction.end_operation(&done);
        done
    }};
}

impl SqliteTransaction {
    /// Begins a transaction, which holds the write lock of the file. After ten seconds of waiting for another
    /// transaction of this process, the error is [`StoreError::Busy`].
    pub(crate) async fn begin(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        // With a time-out: an append that a caller awaits while it holds a transaction itself would wait for ever.
        let writer = timeout(WRITER_TIMEOUT, shared.writer.clone().lock_owned()).await;
        let writer = writer.map_err(|_| StoreError::Busy("another transaction of this process is open".into()))?;
        let (shared, appended) = (shared.clone(), None);
        // From here on, dropping this future rolls the transaction back, whether or not it has begun.
        let mut transaction = Self { writer: Some(writer), shared, appended, unfinished: 0, lent: false, lost: false };
        transaction.writer()?.begin().await?;
        Ok(transaction)
    }

    fn writer(&mut self) -> Result<&mut Writer, StoreError> {
        self.writer.as_deref_mut().ok_or_else(|| StoreError::Unavailable("the transaction is over".into()))
    }

    /// Returns the connection. If the transaction is over, the error is [`StoreError::Ended`] where a statement of the
    /// caller has ended it, else [`StoreError::Unavailable`].
    pub(crate) fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        let (lent, lost) = (self.lent, self.lost);
        let writer = self.writer()?;
        match writer.has_ended() {
            true if lent && !lost => Err(StoreError::Ended),
            true => Err(StoreError::Unavailable("SQLite has rolled the transaction back: begin it again".into())),
            false => writer.connection(),
        }
    }

    /// Returns the connection for an operation, which calls [`end_operation`](Self::end_operation) unless it is
    /// dropped.
    fn begin_operation(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.connection()?;
        self.unfinished += 1;
        self.connection()
    }

    /// Notes the result of an operation. A refusal leaves the transaction as it was.
    fn end_operation<T>(&mut self, done: &Result<T, StoreError>) {
        match done {
            Err(error) if !error.is_refusal() => {
                self.lost |= self.writer.as_ref().is_none_or(|writer| writer.has_ended());
            }
            _ => self.unfinished -= 1,
        }
    }

    /// Records an append.
    pub(crate) async fn record(&mut self, append: Checked) -> Result<Written, StoreError> {
        let now = self.shared.clock.now();
        let written = operation!(self, |connection| append.record(connection, now))?;
        if !written.replayed {
            self.appended = Some(written.last);
        }
        Ok(written)
    }

    /// Commits. A transaction with an unfinished operation is rolled back instead and the commit fails.
    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        let over = self.connection().err();
        if over.is_some() || self.unfinished > 0 {
            self.rollback().await;
            return Err(over.unwrap_or_else(|| Invalid::unfinished().into()));
        }
        if self.lent && self.appended.is_some() {
            // The caller may have rolled back to a savepoint.
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

    /// Rolls back.
    pub(crate) async fn rollback(mut self) {
        if let Ok(writer) = self.writer() {
            writer.rollback().await;
        }
    }
}

impl Drop for SqliteTransaction {
    fn drop(&mut self) {
        let Some(mut writer) = self.writer.take().filter(|writer| writer.open) else { return };
        // Rolled back at once, so that other processes need not wait until this one writes again.
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
        // A transaction has the write lock of the file from its beginning on.
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
        read::events_of_command(self.connection()?, command).await
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
        // A read of a table that does not exist leaves the transaction as it was.
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
