//! Keys of a shard that are parked behind an event that could not be processed, and when each is tried again.

use std::{collections::BTreeMap, time::Duration};

use eventstore_core::{DeadLetter, EventStore, Shard, StoreError, Timestamp};

use crate::{
    failure::{Failure, Fault},
    record::{dead_letters::first, queue::Queue},
};

/// When the node retries a parked key by itself: after 1 s, then after twice as long each time, 8 times in all.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
const RETRIES: u32 = 8;

/// Records one more failed try on a dead letter.
pub fn failed(letter: &mut DeadLetter, failed: &Failure, now: Timestamp) {
    letter.say(&failed.to_string());
    letter.attempts = letter.attempts.saturating_add(1);
    letter.retry_at = retry_at(letter.attempts, failed.fault == Fault::Row, now);
}

/// When the node retries an event that has failed `attempts` times since it was parked; never if it is certain to fail,
/// or after 8 attempts.
pub(crate) fn retry_at(attempts: u32, certain: bool, now: Timestamp) -> Option<Timestamp> {
    let pause = FIRST_RETRY.saturating_mul(1 << attempts.min(10)).min(LONGEST_RETRY);
    (!certain && attempts < RETRIES).then(|| now + pause)
}

/// The parked keys and streams of a shard, each with the reason.
#[derive(Default)]
pub struct Parked {
    queues: BTreeMap<Queue, Waiting>,
}

pub struct Waiting {
    /// Why its first event was not processed.
    pub error: String,
    /// When the node tries it again, if it does.
    pub(crate) retry_at: Option<Timestamp>,
    /// Whether the next dead letter that is written is its first one, of the event that failed.
    pub first: bool,
}

impl Parked {
    /// Reads what is parked of a shard.
    pub async fn load(store: &dyn EventStore, shard: &Shard) -> Result<Self, StoreError> {
        Ok(Self::of(first(store, &shard.projection).await?, shard))
    }

    /// Makes the parked keys of a shard from dead letters of its processor: all of them, or the first one of each key.
    pub fn of(letters: Vec<DeadLetter>, shard: &Shard) -> Self {
        let mut parked = Self::default();
        // A stream waits as a whole only where a single shard has all keys.
        let here = |letter: &DeadLetter| letter.skipped.is_none() && (letter.whole_stream || shard.has(&letter.key));
        for letter in letters.into_iter().filter(here) {
            let queue = Queue::of(&letter);
            let waiting = Waiting { error: letter.error, retry_at: letter.retry_at, first: false };
            // The first dead letter has the event that failed; the others wait behind it.
            parked.queues.entry(queue).or_insert(waiting);
        }
        parked
    }

    pub fn has_key(&self, key: &str) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&Queue::Key(key.into()))
    }

    pub fn has_stream(&self, stream: &str) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&Queue::Stream(stream.into()))
    }

    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub fn len(&self) -> usize {
        self.queues.len()
    }

    pub(crate) fn get(&self, queue: &Queue) -> Option<&Waiting> {
        self.queues.get(queue)
    }

    pub fn get_mut(&mut self, queue: &Queue) -> Option<&mut Waiting> {
        self.queues.get_mut(queue)
    }

    pub(crate) fn park(&mut self, queue: Queue, waiting: Waiting) {
        self.queues.insert(queue, waiting);
    }

    /// Returns the key or stream that is due first, and when.
    pub fn next(&self) -> Option<(&Queue, Timestamp)> {
        let due = self.queues.iter().filter_map(|(queue, waiting)| Some((queue, waiting.retry_at?)));
        due.min_by_key(|(_, at)| *at)
    }
}
