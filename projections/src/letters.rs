//! Events that could not be processed, and those behind them for the same key.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

pub(crate) use eventstore_core::__private::parked;
use eventstore_core::{
    __private::{LETTERS, Sweep, swept, swept_within},
    Changes, DeadLetter, EventStore, Order, Rows, Shard, StoreError, Timestamp, Transaction,
};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    control,
    failed::{Blame, Failed},
    queue::Queue,
};

/// Tries of its own, once a key is parked: after so long, and twice as long each further time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
const RETRIES: u32 = 8;

/// Why an event waits that is not the first one of its key.
pub(crate) const BEHIND: &str = "it waits behind an event of its key";

/// It failed once more.
pub(crate) fn failed(letter: &mut DeadLetter, failed: &Failed, now: Timestamp) {
    letter.say(&failed.to_string());
    letter.attempts = letter.attempts.saturating_add(1);
    letter.retry_at = retry_at(letter.attempts, failed.blame == Blame::Row, now);
}

/// When to try again what has failed so often since it was parked.
pub(crate) fn retry_at(attempts: u32, certain: bool, now: Timestamp) -> Option<Timestamp> {
    let pause = FIRST_RETRY.saturating_mul(1 << attempts.min(10)).min(LONGEST_RETRY);
    (!certain && attempts < RETRIES).then(|| now + pause)
}

/// Letters to be written and letters to be taken out.
pub(crate) fn changes(put: &[DeadLetter], remove: &[DeadLetter]) -> Result<Changes, StoreError> {
    let refused = |reason: serde_json::Error| StoreError::Row { table: LETTERS.to_string(), reason: reason.into() };
    let row = |letter: &DeadLetter| Ok((letter.id(), to_raw_value(letter).map_err(refused)?));
    let upserts = put.iter().map(row).collect::<Result<_, StoreError>>()?;
    // One that is passed over, or was written by release 0.1, gets another row.
    let left = put.iter().filter(|letter| letter.row() != letter.id());
    Ok(Changes { table: LETTERS, upserts, deletes: remove.iter().chain(left).map(DeadLetter::row).collect() })
}

/// All letters of a projection, or of one of its keys, also those that were passed over.
pub(crate) fn wanted(projection: &str, key: Option<&str>, limit: Option<usize>) -> Rows {
    let mut equal = vec![(&LETTERS.columns[0], projection.into())];
    if let Some(key) = key {
        equal.push((&LETTERS.columns[1], key.into()));
    }
    Rows::Where { table: LETTERS, equal, order: Order::default(), limit }
}

/// The first letter of each key of a projection that waits.
pub(crate) async fn first(store: &dyn EventStore, projection: &str) -> Result<Vec<DeadLetter>, StoreError> {
    swept(store, Sweep::first_of_each(projection)).await
}

/// The same, as a transaction sees it.
pub(crate) async fn first_within(
    transaction: &mut dyn Transaction,
    projection: &str,
) -> Result<Vec<DeadLetter>, StoreError> {
    swept_within(transaction, Sweep::first_of_each(projection)).await
}

/// Of the first letters of keys, those of rows that are older than the rows of another table, by its first letters: they
/// wait there at no event, or at a later one.
pub(crate) fn older(letters: Vec<DeadLetter>, than: &[DeadLetter]) -> Vec<DeadLetter> {
    let than: HashMap<_, _> = than.iter().map(|letter| (Queue::of(letter), letter.position)).collect();
    let older = |letter: &DeadLetter| than.get(&Queue::of(letter)).is_none_or(|there| letter.position < *there);
    letters.into_iter().filter(older).collect()
}

pub(crate) fn read(rows: Vec<(String, Box<RawValue>)>) -> Result<Vec<DeadLetter>, StoreError> {
    let letters = rows.into_iter().map(|(row, json)| DeadLetter::read(row, &json));
    let mut letters = letters.collect::<Result<Vec<_>, _>>()?;
    letters.sort_by_key(|letter| letter.position);
    Ok(letters)
}

/// What waits of a shard, and what for.
#[derive(Default)]
pub(crate) struct Parked {
    queues: BTreeMap<Queue, Waiting>,
}

pub(crate) struct Waiting {
    /// Why the first of its events was not processed.
    pub(crate) error: String,
    /// When it is tried again.
    pub(crate) retry_at: Option<Timestamp>,
    /// Whether the next letter is the first one, and so the one that failed.
    pub(crate) first: bool,
}

impl Parked {
    /// What is parked of a shard.
    pub(crate) async fn load(store: &dyn EventStore, shard: &Shard) -> Result<Self, StoreError> {
        Ok(Self::of(first(store, &shard.projection).await?, shard))
    }

    /// What is parked of a shard, by the letters of its projection, or by the first ones of their keys.
    pub(crate) fn of(letters: Vec<DeadLetter>, shard: &Shard) -> Self {
        let mut parked = Self::default();
        // A shard with a stream that waits as a whole is the only one.
        let here = |letter: &DeadLetter| letter.skipped.is_none() && (letter.whole_stream || shard.has(&letter.key));
        for letter in letters.into_iter().filter(here) {
            let queue = Queue::of(&letter);
            let waiting = Waiting { error: letter.error, retry_at: letter.retry_at, first: false };
            // The first one is the one that failed; the others wait for it.
            parked.queues.entry(queue).or_insert(waiting);
        }
        parked
    }

    pub(crate) fn has_key(&self, key: &str) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&Queue::Key(key.into()))
    }

    pub(crate) fn has_stream(&self, stream: &str) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&Queue::Stream(stream.into()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queues.len()
    }

    pub(crate) fn get_mut(&mut self, queue: &Queue) -> Option<&mut Waiting> {
        self.queues.get_mut(queue)
    }

    pub(crate) fn park(&mut self, queue: Queue, waiting: Waiting) {
        self.queues.insert(queue, waiting);
    }

    pub(crate) fn free(&mut self, queue: &Queue) {
        self.queues.remove(queue);
    }

    /// What is to be tried first, and when.
    pub(crate) fn next(&self) -> Option<(&Queue, Timestamp)> {
        let due = self.queues.iter().filter_map(|(queue, waiting)| Some((queue, waiting.retry_at?)));
        due.min_by_key(|(_, at)| *at)
    }
}

/// The first letters of those who wait, due at an instant.
pub(crate) fn first_now(mut letters: Vec<DeadLetter>, now: Timestamp) -> Vec<DeadLetter> {
    let mut queues = HashSet::new();
    letters.retain(|letter| letter.skipped.is_none() && queues.insert(Queue::of(letter)));
    letters.iter_mut().for_each(|letter| letter.retry_at = Some(now));
    letters
}

/// Has whatever waits of a projection tried again now.
pub(crate) async fn due_again(store: &dyn EventStore, projection: &str) -> Result<(), StoreError> {
    let mut transaction = store.begin().await?;
    control::begin_again(&mut *transaction, projection, |_| true).await?;
    let letters = first_within(&mut *transaction, projection).await?;
    let due = first_now(letters, store.now());
    if due.is_empty() {
        return transaction.rollback().await;
    }
    transaction.write(changes(&due, &[])?).await?;
    transaction.commit().await
}
