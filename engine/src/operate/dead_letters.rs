//! Operating dead letters: lists them, tries them again, skips them.

use std::time::Duration;

use eventstore_core::{
    DeadLetter, Invalid, ParkedKeys, Position, Raw, Read, Recorded, StoreError, Timestamp,
    engine::{Sweep, swept, swept_within},
};
use futures::TryStreamExt;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    operate::processors::{PATIENCE, Processors},
    record::{
        self,
        dead_letters::{self, at_once, first_now},
        if_built,
        requests::{TryRun, What},
    },
};

/// How many dead letters of a key are read: the first ones of the key, and of a stream of the same name.
const FEW: usize = 8;

/// The dead letters of a processor: the events that it could not process, and those that wait behind them.
#[derive(Clone)]
pub struct DeadLetters {
    processors: Processors,
    name: String,
}

/// A dead letter with its event, to be stored or published as JSON:
///
/// ```json
/// {
///   "originalEvent": { "id": "…", "type": "order.placed", "version": 1, "timestamp": "…", "source": "orders", "data": { … } },
///   "failureReason": "no customer", "failureCount": 3, "failedAt": "2026-11-29T14:35:00Z", "nextRetry": "2026-11-29T14:35:08Z"
/// }
/// ```
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FailedEvent {
    /// The event.
    pub original_event: OriginalEvent,
    /// Why it was not processed; of an event that waits behind another, empty.
    pub failure_reason: String,
    /// How often a node has tried it since it was parked.
    pub failure_count: u32,
    /// When it was parked.
    pub failed_at: Timestamp,
    /// When a node tries it again; none: when an operator says so.
    pub next_retry: Option<Timestamp>,
}

/// The event of a dead letter.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct OriginalEvent {
    /// Its id.
    pub id: Uuid,
    /// Its stored name.
    pub r#type: String,
    /// The version of its stored form.
    pub version: u32,
    /// When it happened.
    pub timestamp: Timestamp,
    /// The program that recorded it, or that published it.
    pub source: Option<String>,
    /// Its body; text, if it is no JSON.
    pub data: Box<RawValue>,
}

impl FailedEvent {
    fn of(letter: DeadLetter, event: Recorded<Raw>) -> Self {
        let body = String::from_utf8_lossy(&event.data.body).into_owned();
        let text = |body: &String| to_raw_value(body).unwrap_or_default();
        let original_event = OriginalEvent {
            id: event.id,
            r#type: event.data.name.to_string(),
            version: event.schema,
            timestamp: event.occurred_at,
            source: event.metadata.source,
            data: serde_json::from_str(&body).unwrap_or_else(|_| text(&body)),
        };
        let DeadLetter { error: failure_reason, attempts, parked_at: failed_at, retry_at: next_retry, .. } = letter;
        Self { original_event, failure_reason, failure_count: attempts, failed_at, next_retry }
    }
}

impl Processors {
    /// Returns the dead letters of a processor, by its name. The name is checked when they are used.
    pub fn dead_letters(&self, name: &str) -> DeadLetters {
        DeadLetters { processors: self.clone(), name: name.into() }
    }
}

impl DeadLetters {
    /// Returns all dead letters in the order of the log, including those that were skipped. A parked key gets one for
    /// each of its events: [`first`](Self::first) does not read them all.
    ///
    /// [`Invalid::Request`] if there is no such processor; so do the other methods.
    pub async fn list(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let name = self.processors.name(&self.name).await?;
        let rows = self.processors.store.as_ref().rows(dead_letters::wanted(&name, None)).await;
        dead_letters::read(if_built(rows)?)
    }

    /// Returns the dead letters that wait, in the order of the log, each with its event. Reads each event.
    pub async fn in_full(&self) -> Result<Vec<FailedEvent>, StoreError> {
        let store = self.processors.store.as_ref();
        let mut failed = vec![];
        for letter in self.list().await?.into_iter().filter(|letter| letter.skipped.is_none()) {
            let event = store.read(Read::at(letter.position)).await?.events.try_next().await?;
            failed.extend(event.filter(|event| event.id == letter.event).map(|event| FailedEvent::of(letter, event)));
        }
        Ok(failed)
    }

    /// Returns the first dead letter of each parked key, in the order of the log: the event that could not be
    /// processed, and why.
    pub async fn first(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let name = self.processors.name(&self.name).await?;
        dead_letters::first(self.processors.store.as_ref(), &name).await
    }

    /// Tries the events of a key again, in their order, on the node that runs its shard. Returns when all are
    /// processed.
    ///
    /// [`StoreError::Parked`] if an event fails: that event and those behind it wait on. [`StoreError::Behind`] if no
    /// node has tried within 30 seconds. [`Invalid::Request`] if no event waits for the key.
    pub async fn retry(&self, key: &str) -> Result<(), StoreError> {
        let name = self.processors.name(&self.name).await?;
        let waiting = self.waiting(&name, key).await?;
        let first = waiting.first().cloned().ok_or_else(|| self.nothing(&name, key))?;
        // A dead letter that is gone was retried by its node meanwhile: `wait` then returns at once.
        self.due(&name, key, &first_now(waiting)).await?;
        self.wait(&name, key, &first).await
    }

    /// Tries all parked keys again; see [`retry`](Self::retry). Returns the number of keys whose events are processed,
    /// and the number of those that stay parked. [`StoreError::Behind`] if no node has tried a key within 30 seconds.
    pub async fn retry_all(&self) -> Result<(usize, usize), StoreError> {
        let name = self.processors.name(&self.name).await?;
        let mut keys = dead_letters::first(self.processors.store.as_ref(), &name).await?;
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        keys.dedup_by(|a, b| a.key == b.key);
        let (mut done, mut left) = (0, 0);
        for letter in keys {
            match self.retry(&letter.key).await {
                Ok(()) => done += 1,
                Err(StoreError::Parked { .. }) => left += 1,
                // Its node has processed it since the keys were listed.
                Err(StoreError::Invalid(_)) => done += 1,
                Err(error) => return Err(error),
            }
        }
        Ok((done, left))
    }

    /// Skips the event that a key waits for, for good, and keeps the reason; then the events behind it are tried.
    /// Returns the dead letter that was skipped.
    ///
    /// [`StoreError::Parked`] or [`StoreError::Behind`] if the events behind it were not processed, as for
    /// [`retry`](Self::retry); the event stays skipped. [`Invalid::Request`] if no event waits for the key.
    pub async fn skip(&self, key: &str, reason: &str) -> Result<DeadLetter, StoreError> {
        let name = self.processors.name(&self.name).await?;
        let mut letters = self.waiting(&name, key).await?.into_iter();
        let mut skipped = letters.next().ok_or_else(|| self.nothing(&name, key))?;
        (skipped.skipped, skipped.retry_at) = (Some(reason.replace('\0', "\\0")), None);
        let mut next = letters.next();
        if let Some(next) = &mut next {
            next.retry_at = Some(at_once());
        }
        let changed: Vec<_> = [skipped.clone()].into_iter().chain(next.clone()).collect();
        if !self.due(&name, key, &changed).await? {
            return Err(self.nothing(&name, key));
        }
        if let Some(next) = next {
            self.wait(&name, key, &next).await?;
        }
        Ok(skipped)
    }

    /// Returns what would happen if the events of a key were tried now, on the node that runs its shard, in a
    /// transaction that is rolled back. [`Processor::deliver`](crate::Processor::deliver) is not called.
    ///
    /// [`StoreError::Parked`] if the node answers with an error, [`StoreError::Behind`] if none answers within 30
    /// seconds.
    pub async fn try_run(&self, key: &str) -> Result<TryRun, StoreError> {
        let name = self.processors.name(&self.name).await?;
        let tried = self.processors.ask(&name, key, What::Try).await?;
        serde_json::from_value(tried).map_err(|error| StoreError::Damaged(error.into()))
    }

    /// Returns the first dead letters that wait for a key.
    async fn waiting(&self, name: &str, key: &str) -> Result<Vec<DeadLetter>, StoreError> {
        swept(self.processors.store.as_ref(), Sweep::all_of(name, key, FEW)).await
    }

    fn nothing(&self, name: &str, key: &str) -> StoreError {
        Invalid::Request(format!("no event of `{name}` waits for the key `{key}`")).into()
    }

    /// Writes dead letters that still wait, and has the node that runs the shard read them. Returns `false`, having
    /// changed nothing, if the first one is gone: the node may have processed it since it was read, and it must not
    /// come back.
    async fn due(&self, name: &str, key: &str, letters: &[DeadLetter]) -> Result<bool, StoreError> {
        let store = self.processors.store.as_ref();
        let mut transaction = store.begin().await?;
        record::begin_again(&mut *transaction, name, |shard| shard.has(key)).await?;
        let there = swept_within(&mut *transaction, Sweep::all_of(name, key, FEW)).await?;
        let waits = |letter: &&DeadLetter| there.iter().any(|there| there.event == letter.event);
        let still: Vec<_> = letters.iter().filter(waits).cloned().collect();
        if still.first().map(|letter| letter.event) != letters.first().map(|letter| letter.event) {
            transaction.rollback().await?;
            return Ok(false);
        }
        transaction.write(dead_letters::changes(&still, &[])?).await?;
        transaction.commit().await?;
        self.processors.wake_node();
        Ok(true)
    }

    /// Returns when no event waits for the key any more. [`StoreError::Parked`] once an event was tried and failed,
    /// [`StoreError::Behind`] after 30 seconds without a try.
    async fn wait(&self, name: &str, key: &str, first: &DeadLetter) -> Result<(), StoreError> {
        let (start, mut pause) = (Instant::now(), Duration::from_millis(2));
        loop {
            let Some(now) = self.waiting(name, key).await?.into_iter().next() else { return Ok(()) };
            // Either a later event has failed, or the same one has failed again.
            let tried = now.event != first.event && now.attempts > 0 || now.attempts > first.attempts;
            if tried {
                let keys = ParkedKeys::of([key]);
                return Err(StoreError::Parked { projection: name.into(), keys, reason: now.error });
            }
            if start.elapsed() > PATIENCE {
                let at = Position(first.position.0.saturating_sub(1));
                let reason = Some("no node that runs it has tried again".into());
                return Err(StoreError::Behind { projection: name.into(), at, until: first.position, reason });
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

#[cfg(test)]
mod tests {
    use eventstore_core::{MemoryStore, NewEvent, Raw, Shard, Store, StreamId, Version, engine::LETTERS};
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn p3_a_letter_that_was_taken_in_meanwhile_does_not_come_back() -> Result<(), StoreError> {
        let store = Store::from(MemoryStore::new());
        store.as_ref().create(&LETTERS).await?;
        let data = Raw { name: "x".into(), tags: vec![], body: vec![] };
        let event = NewEvent { id: Uuid::now_v7(), schema: 1, occurred_at: None, metadata: Default::default(), data };
        let now = store.as_ref().now();
        let event = event.recorded(StreamId::new("a", "b"), Version(1), Position(1), now);
        let letter = DeadLetter::new(&Shard::whole("p@1"), "b", &event, "why", now, false);
        record::change(store.as_ref(), dead_letters::changes(std::slice::from_ref(&letter), &[])?).await?;
        let letters = Processors::new(&store).dead_letters("p@1");
        // An operator reads the letter, and then the node that runs the shard processes it.
        let read = letters.waiting("p@1", "b").await?;
        assert!(letters.due("p@1", "b", &read).await?, "it waits still");
        record::change(store.as_ref(), dead_letters::changes(&[], &read)?).await?;
        assert!(!letters.due("p@1", "b", &read).await?);
        assert_eq!(letters.waiting("p@1", "b").await?, []);
        Ok(())
    }
}
