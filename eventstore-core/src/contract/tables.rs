//! The rows of read models and the checkpoints of shards: [`Tables`], and what is written to them.

use async_trait::async_trait;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    engine::shard::{Checkpoint, Shard},
    error::StoreError,
    select::Select,
    stream::Position,
    table::{Order, Rows, Table},
};

/// The rows of read models, and the checkpoints of the shards that write them.
#[async_trait]
pub trait Tables: Send + Sync + 'static {
    /// Creates a table unless it exists, without indexes, and adds the [optional](crate::Column::optional) columns that
    /// it lacks. Fails with [`StoreError::Columns`] if the table has other columns, by name and kind, as every read and
    /// write of it does. The order of the columns does not matter.
    async fn create(&self, table: &Table) -> Result<(), StoreError>;

    /// Creates the indexes that a table lacks. Called after many rows are written, which is faster.
    async fn index(&self, table: &Table) -> Result<(), StoreError>;

    /// Returns rows by key, each as the JSON object it was written as. An [optional](crate::Column::optional) column
    /// that the table lacks is null in every row: a program that reads may start before the one that adds the column.
    /// Fails with [`StoreError::NotBuilt`] if there is no such table.
    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError>;

    /// Returns the rows of a query, in its order, each as [`rows`](Self::rows) returns it. The default reads all rows
    /// that pass the filters by equality, and leaves out the others in memory.
    async fn select(&self, select: Select) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        Ok(select.among(self.rows(select.rows()).await?))
    }

    /// Returns the number of rows that pass the filters, regardless of `order`, `after` and `limit`. The default reads
    /// them.
    async fn count_rows(&self, select: Select) -> Result<u64, StoreError> {
        let all = Select { order: Order::default(), after: None, limit: None, ..select };
        Ok(self.select(all).await?.len() as u64)
    }

    /// Returns the shards of a processor, or of all processors, by name and slot; none if it never ran.
    async fn shards(&self, projection: Option<&str>) -> Result<Vec<(Shard, Checkpoint)>, StoreError>;

    /// Returns the position up to which every shard of a processor has come; 0 if it never ran.
    async fn checkpoint(&self, projection: &str) -> Result<Position, StoreError> {
        let shards = self.shards(Some(projection)).await?;
        Ok(shards.iter().map(|(_, checkpoint)| checkpoint.position).min().unwrap_or_default())
    }
}

/// Rows to be written and rows to be deleted.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The table.
    pub table: Table,
    /// Rows to be written, each by its key as a JSON object with the columns of the table.
    pub upserts: Vec<(String, Box<RawValue>)>,
    /// Keys of rows to be deleted.
    pub deletes: Vec<String>,
}

impl Changes {
    /// Whether no row is written or deleted.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty()
    }

    /// Refuses rows that some store cannot hold, with [`StoreError::Row`]. Every store calls it first.
    pub fn check(&self) -> Result<(), StoreError> {
        self.upserts.iter().try_for_each(|(key, row)| self.table.check(key, row))?;
        self.deletes.iter().try_for_each(|key| self.table.check_key(key))
    }
}

/// A step of a shard: the changes that follow from the events after one position and up to another.
#[derive(Clone, Debug)]
pub struct Step {
    /// The shard.
    pub shard: Shard,
    /// The checkpoint that the shard must have: position, event, epoch and owner.
    pub from: Checkpoint,
    /// The position it advances to, and the event there.
    pub to: (Position, Option<Uuid>),
    /// The rows written in the same commit.
    pub changes: Changes,
    /// As [`Transaction::lazy`](crate::Transaction::lazy).
    pub lazy: bool,
}
