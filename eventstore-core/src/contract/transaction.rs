//! Reads and writes of the log and of rows in one commit: [`Transaction`].

use std::{any::Any, error::Error};

use async_trait::async_trait;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    append::{Append, Condition, Written},
    query::Query,
    read::{Page, Prefix, Read},
    tables::Changes,
};
use crate::{
    engine::shard::{Checkpoint, Shard},
    error::{Blame, Conflict, StoreError},
    event::{Raw, Recorded},
    stream::{Expected, Position, StreamHead, StreamId, Version},
    table::Rows,
    timestamp::Timestamp,
};

/// Reads and writes that are committed together, or not at all.
///
/// After an operation has failed or its future was dropped, it is unknown how much of it was done: `commit` refuses,
/// and leaves nothing. A refusal ([`StoreError::is_refusal`]) is no failure: it comes before anything is done. A read
/// of rows of a table that does not exist ([`StoreError::NotBuilt`]) or has other columns is no failure either.
#[async_trait]
pub trait Transaction: Send {
    /// Locks a shard against other transactions until the end of this one, and returns its checkpoint; none if there is
    /// no such shard. Called before any other operation.
    async fn lock(&mut self, shard: &Shard) -> Result<Option<Checkpoint>, StoreError>;

    /// Locks all shards of a processor, also if it has none yet, and returns them by slot. Called before any other
    /// operation.
    async fn lock_projection(&mut self, projection: &str) -> Result<Vec<(Shard, Checkpoint)>, StoreError>;

    /// Replaces the shards of a processor. Called after [`lock_projection`](Self::lock_projection).
    async fn put_shards(&mut self, projection: &str, shards: Vec<(Shard, Checkpoint)>) -> Result<(), StoreError>;

    /// As [`EventStore::append`](crate::EventStore::append).
    async fn append(&mut self, append: Append) -> Result<Written, StoreError>;

    /// Keeps other callers from appending until the end of this transaction, as an append does. Fails with
    /// [`Conflict`](StoreError::Conflict), which is a refusal, unless each of the streams is at its version, and no
    /// event that matches the condition was recorded after its position. Called before this transaction has appended
    /// anything.
    ///
    /// The default reads, and takes no lock: it is exact for a store whose transactions keep others from appending from
    /// the beginning.
    async fn hold(
        &mut self,
        unchanged: Vec<(StreamId, Version)>,
        condition: Option<Condition>,
    ) -> Result<(), StoreError> {
        for (stream, version) in unchanged {
            let last = Read { query: Query::of(&stream), backwards: true, limit: Some(1), ..Read::default() };
            let actual = self.read(last).await?.events.first().map_or(Version(0), |last| last.version);
            if actual != version {
                return Err(Conflict::new(stream, Expected::Version(version), actual).into());
            }
        }
        let Some(Condition { query, after }) = condition else { return Ok(()) };
        let newer = Read { query, after, limit: Some(1), ..Read::default() };
        match self.read(newer).await?.events.pop() {
            Some(event) => Err(Conflict::in_the_way(event.stream, event.version).into()),
            None => Ok(()),
        }
    }

    /// Returns whether it still keeps other callers from appending, after [`hold`](Self::hold) or an append. It does
    /// not if the caller has rolled the [`connection`](Self::connection) back to an earlier savepoint. The default is
    /// for a store whose transactions keep others from appending from the beginning.
    async fn holds(&mut self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// As [`EventStore::read`](crate::EventStore::read), one page of it, seeing what this transaction has appended.
    async fn read(&mut self, read: Read) -> Result<Page, StoreError>;

    /// As [`EventStore::find`](crate::EventStore::find), seeing what this transaction has appended.
    async fn find(&mut self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError>;

    /// As [`EventStore::streams`](crate::EventStore::streams), seeing what this transaction has appended.
    async fn streams(&mut self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError>;

    /// As [`EventStore::position_at`](crate::EventStore::position_at), seeing what this transaction has appended.
    async fn position_at(&mut self, at: Timestamp) -> Result<Position, StoreError>;

    /// As [`EventStore::time`](crate::EventStore::time), on the connection of the transaction. `None`, the default: the
    /// store has a clock in this process.
    async fn time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }

    /// As [`EventStore::prefix_at`](crate::EventStore::prefix_at), seeing what this transaction has appended.
    async fn prefix_at(&mut self, at: Timestamp) -> Result<Prefix, StoreError> {
        Ok(Prefix { position: self.position_at(at).await?, settled: false })
    }

    /// As [`Tables::rows`](crate::Tables::rows), seeing what this transaction has written.
    async fn rows(&mut self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError>;

    /// Writes and deletes rows, after [`Changes::check`].
    async fn write(&mut self, changes: Changes) -> Result<(), StoreError>;

    /// Exchanges the names of a table and of its [shadow](crate::Table::shadow). Fails with [`StoreError::NotBuilt`]
    /// unless both exist.
    async fn swap(&mut self, table: &str) -> Result<(), StoreError>;

    /// Makes a view of this name show the table to readers of plain SQL. Grants the rights that the table shown before
    /// had.
    async fn publish(&mut self, name: &str, table: &str) -> Result<(), StoreError>;

    /// Removes a table, if it exists.
    async fn remove(&mut self, table: &str) -> Result<(), StoreError>;

    /// Advances the checkpoint of a shard to a position and the event there. A checkpoint that is further already
    /// stays. Fails with [`StoreError::Forked`] if the log, as this transaction sees it, does not have the event at the
    /// position.
    async fn advance(&mut self, shard: &Shard, to: Position, event: Option<Uuid>) -> Result<(), StoreError>;

    /// The commit need not wait until it is on disk, if that is faster and nothing was appended: for rows that are made
    /// of the log and would be made again. A later commit that waits flushes this one, too.
    fn lazy(&mut self) {}

    /// Called before a caller gets the [`connection`](Self::connection): resets what the operations before have set for
    /// themselves, such as time-outs. Fails if the transaction can no longer be committed.
    async fn lend(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns the connection of the transaction, for SQL of the caller: a `PgConnection`, a `SqliteConnection`; none
    /// if the store has no SQL.
    ///
    /// The caller may begin transactions on it with sqlx's `begin`, which makes savepoints of them, and must not end
    /// this one. The next operation checks: it fails with [`StoreError::Ended`] if the transaction is not the one that
    /// was begun. A transaction in which a statement has failed, or was dropped before its end, cannot be committed.
    fn connection(&mut self) -> Option<&mut (dyn Any + Send)>;

    /// Called when the caller has returned the connection: notes whether a statement whose future was dropped still
    /// runs.
    fn returned(&mut self) {}

    /// Fails unless this is still the transaction that was begun, and can be committed. Every operation checks it, too.
    async fn check(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns who has caused an error that user code returned; none if no error of the database's driver is below it.
    fn blame(&self, error: &(dyn Error + 'static)) -> Option<Blame> {
        let _ = error;
        None
    }

    /// Commits everything at once. Fails with [`Invalid::Request`](crate::Invalid::Request), leaving nothing, if an
    /// operation has failed or was dropped.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;

    /// Undoes everything.
    async fn rollback(self: Box<Self>) -> Result<(), StoreError>;
}
