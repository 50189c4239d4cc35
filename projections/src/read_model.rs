//! Keeps the rows of a declared read model: for a batch of events one read, one fold in memory, one write.

use std::collections::BTreeSet;

use async_trait::async_trait;
use eventstore_core::{
    Batch, Event, EventStore, Position, Query, Raw, Read, ReadModel, Recorded, RowFold, Rows, StoreError, Transaction,
};
use futures::TryStreamExt;
use serde_json::value::RawValue;
use tokio::sync::Mutex;

use crate::{
    failed::{Failed, at},
    follower::Follower,
};

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

    async fn prepare(&self, store: &dyn EventStore) -> Result<(), Failed> {
        // The checkpoint first: once it has moved there is a table, and one made now would lack what is behind it.
        if store.checkpoint(&self.name()).await? > Position(0) {
            let there = store.rows(Rows::Keys { table: M::TABLE, keys: vec![] }).await;
            there.map_err(|error| match error {
                StoreError::NotBuilt { table: projection } => {
                    let reason = "its table is gone and its checkpoint is not: raise its version";
                    StoreError::Stopped { projection, reason: reason.into() }
                }
                error => error,
            })?;
        }
        store.create(&M::TABLE).await?;
        // Shows the fold the first event there ever was: where keys come from streams, it says of which category.
        let first = Read { query: self.query(), limit: Some(1), ..Read::default() };
        let first: Vec<_> = store.read(first).await?.events.try_collect().await?;
        let _ = self.rows.lock().await.decode(&first);
        Ok(())
    }

    async fn take(&self, transaction: &mut dyn Transaction, batch: &[Recorded<Raw>]) -> Result<(), Failed> {
        let mut rows = self.rows.lock().await;
        rows.clear();
        let mut events = Vec::with_capacity(batch.len());
        for raw in batch {
            events.push((raw, at(raw, || rows.decode([raw]))?));
        }
        let keys: BTreeSet<_> = events.iter().flat_map(|(_, event)| event.keys()).collect();
        let keys: Vec<_> = keys.into_iter().collect();
        let stored =
            if keys.is_empty() { vec![] } else { transaction.rows(Rows::Keys { table: M::TABLE, keys }).await? };
        load(&mut rows, &stored)?;
        for (raw, event) in &events {
            at(raw, || {
                rows.project(event);
                Ok(())
            })?;
        }
        let changes = match rows.changes() {
            Ok(changes) => changes,
            Err(error) => return Err(blame(&mut rows, &stored, &events, error)),
        };
        if !(changes.upserts.is_empty() && changes.deletes.is_empty()) {
            transaction.write(changes).await?;
        }
        Ok(())
    }
}

fn load<M: ReadModel>(rows: &mut RowFold<M>, stored: &[(String, Box<RawValue>)]) -> Result<(), StoreError> {
    stored.iter().try_for_each(|(key, row)| rows.load(key.clone(), row))
}

/// Finds the event that made a row no table can hold: folds again, and looks at the rows after each.
fn blame<M: ReadModel>(
    rows: &mut RowFold<M>,
    stored: &[(String, Box<RawValue>)],
    events: &[(&Recorded<Raw>, Batch<M>)],
    error: StoreError,
) -> Failed {
    rows.clear();
    let mut look = || {
        load(rows, stored)?;
        events.iter().try_for_each(|(raw, event)| {
            at(raw, || {
                rows.project(event);
                event.keys().iter().try_for_each(|key| rows.check(key))
            })
        })
    };
    look().err().unwrap_or_else(|| error.into())
}
