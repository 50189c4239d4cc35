//! What is done together on one connection.

use std::{any::Any, ops::Deref, sync::Arc};

use async_trait::async_trait;
use eventstore_core::{
    Append, Changes, Checkpoint, Page, Position, Raw, Read, Recorded, Rows, Shard, StoreError, StreamHead, Timestamp,
    Transaction, Written,
};
use serde_json::value::RawValue;
use sqlx::{PgConnection, Postgres, pool::PoolConnection};
use uuid::Uuid;

use crate::{
    append::{Checked, Failed},
    error, read,
    shared::Shared,
    tables,
};

/// A transaction. Dropped before its end, its connection is closed: nobody else gets one that is not idle.
pub(crate) struct PgTransaction {
    connection: PoolConnection<Postgres>,
    shared: Arc<Shared>,
    over: bool,
    /// Whether something was begun and not ended: its caller has gone, and nobody knows how much of it was done.
    doubtful: bool,
    /// The last position it has appended.
    appended: Option<Position>,
    /// The table that was seen to have the columns the program knows. Having been read, nobody else changes them.
    fits: Option<(&'static str, u32, bool)>,
    /// Whether its commit need not wait for the flush.
    lazy: bool,
    /// Event types that are there once this is committed.
    new_types: Vec<(i32, String, String)>,
}

impl PgTransaction {
    pub(crate) async fn begin(shared: &Arc<Shared>) -> Result<Self, StoreError> {
        let connection = shared.pool.acquire().await.map_err(error::store)?;
        let (shared, new_types) = (shared.clone(), vec![]);
        // From here on whoever drops this future has the connection closed, begun or not.
        let mut transaction = Self {
            connection,
            shared,
            over: false,
            doubtful: false,
            appended: None,
            fits: None,
            lazy: false,
            new_types,
        };
        transaction.run(transaction.shared.pooler.begin()).await?;
        Ok(transaction)
    }

    async fn run(&mut self, sql: &'static str) -> Result<(), StoreError> {
        sqlx::raw_sql(sql).execute(&mut *self.connection).await.map(drop).map_err(error::store)
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    pub(crate) async fn record(&mut self, append: &Checked) -> Result<Written, Failed> {
        self.doubtful = true;
        let written = append.record(&mut self.connection, &self.shared, &mut self.new_types, true).await;
        self.doubtful = false;
        let written = written?;
        if !written.replayed {
            self.appended = Some(written.last);
        }
        Ok(written)
    }

    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        if self.doubtful {
            return Err(StoreError::Database("an operation of this transaction was dropped before its end".into()));
        }
        // A commit after an error rolls back without a word; another statement before it says so (25P02).
        let commit = match self.lazy && self.appended.is_none() {
            true => "SET LOCAL synchronous_commit = off; COMMIT",
            false => "SELECT 1; COMMIT",
        };
        let committed = sqlx::raw_sql(commit).execute(&mut *self.connection).await;
        match committed {
            Ok(_) => {}
            // Nobody knows whether the server got to the commit.
            Err(error) if error::lost(&error) => return Err(StoreError::Unknown(error.into())),
            Err(error) => return Err(error::store(error)),
        }
        self.over = true;
        self.shared.types.learn(std::mem::take(&mut self.new_types));
        if let Some(last) = self.appended {
            self.shared.recorded(last);
        }
        Ok(())
    }

    pub(crate) async fn rollback(mut self) -> Result<(), StoreError> {
        self.run("ROLLBACK").await?;
        self.over = true;
        Ok(())
    }
}

impl Deref for PgTransaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl Drop for PgTransaction {
    fn drop(&mut self) {
        if !self.over {
            self.connection.close_on_drop();
        }
    }
}

#[async_trait]
impl Transaction for PgTransaction {
    async fn lock(&mut self, shard: &Shard) -> Result<Option<Checkpoint>, StoreError> {
        tables::lock(&mut self.connection, &self.shared.sql, shard).await
    }

    async fn lock_projection(&mut self, projection: &str) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        tables::lock_projection(&mut self.connection, &self.shared.sql, projection).await
    }

    async fn put_shards(&mut self, projection: &str, shards: Vec<(Shard, Checkpoint)>) -> Result<(), StoreError> {
        self.doubtful = true;
        let put = tables::put_shards(&mut self.connection, &self.shared.sql, projection, shards).await;
        self.doubtful = false;
        put
    }

    async fn append(&mut self, append: Append) -> Result<Written, StoreError> {
        self.record(&Checked::new(append, &self.shared.types)?).await.map_err(Failed::into_store)
    }

    async fn read(&mut self, read: Read) -> Result<Page, StoreError> {
        // What others know of the log may be newer than what this sees.
        read::page(&mut self.connection, &self.shared, &read, Position(0), &mut self.new_types).await
    }

    async fn find(&mut self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        read::of_command(&mut self.connection, &self.shared, command, &mut self.new_types).await
    }

    async fn streams(&mut self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        read::streams(&mut self.connection, &self.shared, category, after, limit).await
    }

    async fn position_at(&mut self, at: Timestamp) -> Result<Position, StoreError> {
        read::position_at(&mut self.connection, &self.shared, at).await
    }

    async fn rows(&mut self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        let (Rows::Keys { table, .. } | Rows::Where { table, .. }) = rows else {
            return tables::rows(&mut self.connection, &self.shared.sql, rows, &[]).await;
        };
        let found = tables::rows(&mut self.connection, &self.shared.sql, rows, &[]).await?;
        self.fits = Some((table.name, table.version, table.beside));
        Ok(found)
    }

    async fn write(&mut self, changes: Changes) -> Result<(), StoreError> {
        if self.fits != Some((changes.table.name, changes.table.version, changes.table.beside)) {
            tables::check(&mut self.connection, &self.shared.sql, &changes.table).await?;
        }
        self.doubtful = true;
        let written = tables::write(&mut self.connection, &self.shared.sql, changes).await;
        self.doubtful = false;
        written
    }

    async fn swap(&mut self, table: &str) -> Result<(), StoreError> {
        self.doubtful = true;
        let swapped = tables::swap(&mut self.connection, &self.shared.sql, table).await;
        self.doubtful = false;
        swapped
    }

    async fn publish(&mut self, name: &str, table: &str) -> Result<(), StoreError> {
        self.doubtful = true;
        let published = tables::publish(&mut self.connection, &self.shared.sql, name, table).await;
        self.doubtful = false;
        published
    }

    async fn remove(&mut self, table: &str) -> Result<(), StoreError> {
        tables::remove(&mut self.connection, &self.shared.sql, table).await
    }

    async fn advance(&mut self, shard: &Shard, to: Position, event: Option<Uuid>) -> Result<(), StoreError> {
        tables::advance(&mut self.connection, &self.shared.sql, shard, to, event).await
    }

    fn lazy(&mut self) {
        self.lazy = true;
    }

    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        // Whoever has it may change a table.
        self.fits = None;
        Some(&mut *self.connection)
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Self::commit(*self).await
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        Self::rollback(*self).await
    }
}
