//! Runs the operations of a turn on a store.

use std::panic::AssertUnwindSafe;

use futures::{FutureExt, TryStreamExt};

use crate::{
    contract::{Item, Query, Read},
    error::StoreError,
    process::{
        answering::Todo,
        derived_id::{at, derived_id},
        instance::StoredInstance,
        mark::{Ended, stream_of},
        sending::Told,
        turn::{Parked, panicked},
    },
    store::Store,
    stream::Expected,
};

/// Why an operation failed.
#[derive(Debug)]
pub enum Failure {
    /// The store failed, and no instance is to blame: begin the batch again later.
    Store(StoreError),
    /// The instance is to blame: tell its [turn](crate::process::Turn::failed).
    Parked(Parked),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match Parked::of(&error) {
            Some(parked) => Self::Parked(parked),
            None => Self::Store(error),
        }
    }
}

impl Todo {
    /// Runs the operation and returns its result. Fails with [`Failure::Store`] if the store is to blame, and with
    /// [`Failure::Parked`] if the instance is, as at a panic in a rule.
    pub async fn perform(&self, store: &Store) -> Result<Told, Failure> {
        match AssertUnwindSafe(self.run(store)).catch_unwind().await {
            Ok(told) => Ok(told?),
            Err(panic) => Err(Failure::Parked(Parked { reason: panicked(&*panic), later: false })),
        }
    }

    async fn run(&self, store: &Store) -> Result<Told, StoreError> {
        match self {
            Self::Send(sending, delivery) => sending.send(store, delivery).await,
            Self::Mark(mark, delivery) => {
                let append = store.append(delivery.marks(), Expected::Any, [mark.clone()]).command_id(delivery.id);
                match append.caused_by(&delivery.event).by(delivery.actor()).await {
                    Ok(_) => Ok(Told::Recorded),
                    Err(StoreError::Duplicate { .. } | StoreError::Reused { .. }) => Ok(Told::Taken),
                    Err(error) => Err(error),
                }
            }
            Self::LookUp(delivery) => {
                let query = Query::from(Item { names: vec![Ended::NAME.into()], ..Item::of(&delivery.marks()) });
                let read = Read { query, limit: Some(1), ..Read::default() };
                let ended = store.inner().read(read).await?.events.try_next().await?;
                Ok(Told::Over(ended.is_some()))
            }
        }
    }
}

/// Records that an instance is over, before its row is deleted, so that no instance with its key begins again.
pub async fn end(store: &Store, process: &str, row: &StoredInstance) -> Result<(), StoreError> {
    let from = at(uuid::Uuid::nil(), row.started_at);
    let id = derived_id(from, ["saga.ended", process, &row.key]);
    store.append(stream_of(process, &row.key), Expected::Any, [Ended {}]).command_id(id).await?;
    Ok(())
}
