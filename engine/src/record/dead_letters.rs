//! The table of dead letters: events that could not be processed, and those that wait behind them.

use std::collections::{HashMap, HashSet};

pub use eventstore_core::engine::parked;
use eventstore_core::{
    Changes, DeadLetter, EventStore, Order, Rows, StoreError, Timestamp, Transaction,
    engine::{LETTERS, Sweep, swept, swept_within},
};
use serde_json::value::{RawValue, to_raw_value};

use crate::record::{self, queue::Queue};

/// The error of a dead letter that is not the first one of its key.
pub const BEHIND: &str = "it waits behind an event of its key";

/// Returns the changes that write some dead letters and remove others. An event that is read as several may be said to
/// wait more than once for a key: the first letter counts.
pub fn changes(put: &[DeadLetter], remove: &[DeadLetter]) -> Result<Changes, StoreError> {
    let refused = |reason: serde_json::Error| StoreError::Row { table: LETTERS.to_string(), reason: reason.into() };
    let row = |letter: &DeadLetter| Ok((letter.id(), to_raw_value(letter).map_err(refused)?));
    let mut rows = HashSet::new();
    let once = put.iter().filter(|letter| rows.insert(letter.id()));
    let upserts = once.map(row).collect::<Result<_, StoreError>>()?;
    // A dead letter that is skipped, or was written by release 0.1, gets another row; the row it had is removed.
    let left = put.iter().filter(|letter| letter.row() != letter.id());
    Ok(Changes { table: LETTERS, upserts, deletes: remove.iter().chain(left).map(DeadLetter::row).collect() })
}

/// Returns a request for all dead letters of a processor, or of one of its keys, including those that were skipped.
pub fn wanted(projection: &str, key: Option<&str>) -> Rows {
    let mut equal = vec![(&LETTERS.columns[0], projection.into())];
    if let Some(key) = key {
        equal.push((&LETTERS.columns[1], key.into()));
    }
    Rows::Where { table: LETTERS, equal, order: Order::default(), limit: None }
}

/// Returns the first dead letter of each parked key of a processor.
pub async fn first(store: &dyn EventStore, projection: &str) -> Result<Vec<DeadLetter>, StoreError> {
    swept(store, Sweep::first_of_each(projection)).await
}

/// Returns the first dead letter of each parked key, as a transaction sees it.
pub async fn first_within(transaction: &mut dyn Transaction, projection: &str) -> Result<Vec<DeadLetter>, StoreError> {
    swept_within(transaction, Sweep::first_of_each(projection)).await
}

/// Returns those of a table's first dead letters whose rows are older than the rows of another table, by the other's
/// first dead letters: the key waits there at a later event, or at none.
pub fn older(letters: Vec<DeadLetter>, than: &[DeadLetter]) -> Vec<DeadLetter> {
    let than: HashMap<_, _> = than.iter().map(|letter| (Queue::of(letter), letter.position)).collect();
    let older = |letter: &DeadLetter| than.get(&Queue::of(letter)).is_none_or(|there| letter.position < *there);
    letters.into_iter().filter(older).collect()
}

/// Reads rows of the table of dead letters, in the order of the log.
pub fn read(rows: Vec<(String, Box<RawValue>)>) -> Result<Vec<DeadLetter>, StoreError> {
    let letters = rows.into_iter().map(|(row, json)| DeadLetter::read(row, &json));
    let mut letters = letters.collect::<Result<Vec<_>, _>>()?;
    letters.sort_by_key(|letter| letter.position);
    Ok(letters)
}

/// Returns the instant of what is due at once: over by every clock, because the node that reads it has another clock
/// than the process that writes it.
pub(crate) fn at_once() -> Timestamp {
    Timestamp::from_micros(0)
}

/// Returns the first dead letter of each key or stream that waits, due at once.
pub(crate) fn first_now(mut letters: Vec<DeadLetter>) -> Vec<DeadLetter> {
    let mut queues = HashSet::new();
    letters.retain(|letter| letter.skipped.is_none() && queues.insert(Queue::of(letter)));
    letters.iter_mut().for_each(|letter| letter.retry_at = Some(at_once()));
    letters
}

/// Has all parked keys of a processor tried again now.
pub(crate) async fn due_again(store: &dyn EventStore, projection: &str) -> Result<(), StoreError> {
    let mut transaction = store.begin().await?;
    record::begin_again(&mut *transaction, projection, |_| true).await?;
    let letters = first_within(&mut *transaction, projection).await?;
    let due = first_now(letters);
    if due.is_empty() {
        return transaction.rollback().await;
    }
    transaction.write(changes(&due, &[])?).await?;
    transaction.commit().await
}
