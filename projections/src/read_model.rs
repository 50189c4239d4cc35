//! Keeps the rows of a declared read model: for a batch of events one read, one fold in memory, one write.

use async_trait::async_trait;
use eventstore_core::{BoxError, Event, EventStore, Query, Raw, Read, ReadModel, Recorded, RowFold, Rows, Transaction};
use futures::TryStreamExt;
use tokio::sync::Mutex;

use crate::follower::Follower;

/// Keeps the rows of `M`.
pub(crate) struct Folded<M> {
    rows: Mutex<RowFold<M>>,
}

impl<M: ReadModel> Default for Folded<M> {
    fn default() -> Self {
        Self { rows: Mutex::default() }
    }
}

#[async_trait]
impl<M: ReadModel> Follower for Folded<M> {
    fn name(&self) -> String {
        M::TABLE.to_string()
    }

    fn query(&self) -> Query {
        Query::names(M::Event::NAMES)
    }

    async fn prepare(&self, store: &dyn EventStore) -> Result<(), BoxError> {
        store.create(&M::TABLE).await?;
        // Shows the fold the first event there ever was: where keys come from streams, it says of which category.
        let first = Read { query: self.query(), limit: Some(1), ..Read::default() };
        let first: Vec<_> = store.read(first).await?.events.try_collect().await?;
        let _ = self.rows.lock().await.decode(&first);
        Ok(())
    }

    async fn take(&self, transaction: &mut dyn Transaction, batch: &[Recorded<Raw>]) -> Result<(), BoxError> {
        let mut rows = self.rows.lock().await;
        rows.clear();
        let batch = rows.decode(batch)?;
        let keys = batch.keys();
        if !keys.is_empty() {
            for (key, row) in transaction.rows(Rows::Keys { table: M::TABLE, keys }).await? {
                rows.load(key, &row)?;
            }
        }
        rows.project(&batch);
        let changes = rows.changes()?;
        if !(changes.upserts.is_empty() && changes.deletes.is_empty()) {
            transaction.write(changes).await?;
        }
        Ok(())
    }
}
