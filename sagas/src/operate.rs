//! What an operator does to an instance: any process may, and a node that runs the saga goes on from there.

use std::time::Duration;

use eventstore_core::{
    Changes, DeadLetter, Invalid, ParkedKeys, Position, Rows, Saga, SagaStatus, StoreError,
    engine::{Sweep, swept_within},
    process::{Intervention, Process, StoredInstance, Terms},
};
use eventstore_engine::{
    Processors,
    record::{begin_again, dead_letters},
};
use tokio::time::{Instant, sleep};

use crate::{
    answers::KEEP_FINISHED,
    instances::{Sagas, waits},
    table,
};

/// How long an operator waits for a node to try an instance again.
const PATIENCE: Duration = Duration::from_secs(30);

impl<S: Saga> Sagas<S> {
    /// Sets the actor that the events of [`skip`](Self::skip), [`cancel`](Self::cancel),
    /// [`compensate`](Self::compensate) and [`wake`](Self::wake) name: `saga.intervened`, in the stream
    /// `saga.{name}-{key}` of the instance. An event that is skipped keeps its reason in its dead letter instead.
    pub fn by(mut self, actor: impl Into<String>) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// Tries an instance that is parked again, on the node that runs it: the events that wait, or else the steps and
    /// timers. Returns when it goes on.
    ///
    /// [`StoreError::Parked`] if it fails again. [`StoreError::Behind`] if no node has tried within 30 seconds.
    /// [`Invalid::Request`] if it is not parked.
    pub async fn retry(&self, key: &str) -> Result<(), StoreError> {
        if self.letter(key).await?.is_some() {
            return Processors::new(&self.store).dead_letters(S::NAME).retry(key).await;
        }
        self.intervene(key, Intervention::Retry, "").await?;
        self.wait(key).await.map(drop)
    }

    /// Skips what a parked instance waits for, for good, and keeps the reason: the event that waits as a dead letter, or
    /// else the step that cannot be undone or done, and the timers that failed. Returns when the instance goes on. Its
    /// state is not changed by an event that was skipped; commands of the answer that were recorded before stay.
    ///
    /// Fails as [`retry`](Self::retry) does if what comes next fails; what was skipped stays so.
    pub async fn skip(&self, key: &str, reason: &str) -> Result<(), StoreError> {
        if self.letter(key).await?.is_some() {
            let letters = Processors::new(&self.store).dead_letters(S::NAME);
            return letters.skip(key, reason).await.map(drop);
        }
        self.intervene(key, Intervention::Skip, reason).await?;
        self.wait(key).await.map(drop)
    }

    /// Ends an instance: it reads no more events and none of its timers fires. Nothing is undone. Events of it that wait
    /// as dead letters are skipped. A command that a node is sending at that moment may still be recorded.
    ///
    /// [`Invalid::Request`] if there is no such instance, or if it is over.
    pub async fn cancel(&self, key: &str, reason: &str) -> Result<(), StoreError> {
        self.intervene(key, Intervention::Cancel, reason).await
    }

    /// Undoes the steps of an instance that are or may be done, the last first. Returns when a node has begun.
    ///
    /// The node first completes what it is sending.
    ///
    /// [`Invalid::Request`] if the saga has no steps, if the instance is over, is being undone or tried again already or
    /// passes its [pivot](eventstore_core::Plan::pivot) first, or if an event of it waits as a dead letter: retry or
    /// skip that first.
    /// [`StoreError::Parked`] if a step cannot be undone, [`StoreError::Behind`] if no node has begun within 30 seconds.
    pub async fn compensate(&self, key: &str, reason: &str) -> Result<(), StoreError> {
        self.intervene(key, Intervention::Compensate, reason).await?;
        let row = self.wait(key).await?;
        match row.is_some_and(|row| row.plan.is_some_and(|plan| plan.failed.is_some())) {
            true => Ok(()),
            false => Err(refused::<S>(key, "has passed its pivot meanwhile, or is over")),
        }
    }

    /// Has the steps and timers of an instance that wait for another try tried at once: what they need is there again.
    ///
    /// [`Invalid::Request`] if none of them waits for another try, or if the instance is parked.
    pub async fn wake(&self, key: &str) -> Result<(), StoreError> {
        self.intervene(key, Intervention::Wake, "").await
    }

    /// Changes the row of an instance, and records that in its stream. The epoch of its shard is raised, so that no node
    /// overwrites the change with what it has read before.
    async fn intervene(&self, key: &str, what: Intervention, reason: &str) -> Result<(), StoreError> {
        let (table, store) = (table::table(S::NAME), self.store.as_ref());
        let refused = |why: &str| refused::<S>(key, why);
        // Outside of the transaction: reading a table that does not exist would end it.
        if self.get(key).await?.is_none() {
            return Err(refused("does not exist"));
        }
        store.create(&table).await?;
        let now = store.time().await?;
        let mut transaction = store.begin().await?;
        begin_again(&mut *transaction, S::NAME, |shard| shard.has(key)).await?;
        let letters = swept_within(&mut *transaction, Sweep::all_of(S::NAME, key, usize::MAX)).await?;
        let letters: Vec<_> = letters.into_iter().filter(waits).collect();
        let rows = transaction.rows(Rows::Keys { table, keys: vec![key.into()] }).await?;
        let row = rows.first().map(|(key, row)| table::read(&table, key, row)).transpose()?;
        let reason = reason.replace('\0', "\\0");
        let changed = match (row, what) {
            // An instance whose first event waits has no row.
            (None, Intervention::Cancel) if !letters.is_empty() => Ok(Self::first_row(key, &letters)?),
            (None, _) => Err("is not there any more"),
            (Some(_), Intervention::Compensate | Intervention::Wake) if !letters.is_empty() => {
                Err("has an event that waits as a dead letter: retry or skip it first")
            }
            (Some(row), _) => Ok(row),
        };
        let changed = changed.and_then(|mut row| {
            what.change(&mut row, &reason, Terms { now, keep_finished: Some(KEEP_FINISHED) })?;
            Ok(row)
        });
        let row = match changed {
            Ok(row) => row,
            Err(why) => {
                transaction.rollback().await?;
                return Err(refused(why));
            }
        };
        let upserts = vec![(key.into(), table::written(&table, &row)?)];
        transaction.write(Changes { table, upserts, deletes: vec![] }).await?;
        if what == Intervention::Cancel && !letters.is_empty() {
            let mut skipped = letters;
            for letter in &mut skipped {
                (letter.skipped, letter.retry_at) = (Some(reason.clone()), None);
            }
            transaction.write(dead_letters::changes(&skipped, &[])?).await?;
        }
        if what != Intervention::Retry {
            let append = what.append(S::NAME, key, &reason, self.actor.clone());
            transaction.append(append.map_err(|error| Invalid::Request(error.to_string()))?).await?;
        }
        transaction.commit().await?;
        Processors::new(&self.store).wake_node();
        Ok(())
    }

    /// Returns the row of an instance that has had no event.
    fn first_row(key: &str, letters: &[DeadLetter]) -> Result<StoredInstance, StoreError> {
        let (process, mut row) = (S::Process::default(), StoredInstance::new(key));
        let refused = |reason: eventstore_core::EventError| StoreError::Row {
            table: table::table(S::NAME).to_string(),
            reason: reason.into(),
        };
        process.save(&process.blank(), &mut row).map_err(refused)?;
        let first = letters.first();
        row.position = first.map_or(Position(0), |letter| letter.position);
        row.started_at = first.map_or(row.started_at, |letter| letter.parked_at);
        Ok(row)
    }

    /// Waits until a node has tried a parked instance again, or has begun to undo its steps. Returns the row.
    async fn wait(&self, key: &str) -> Result<Option<StoredInstance>, StoreError> {
        let (start, mut pause) = (Instant::now(), Duration::from_millis(2));
        loop {
            let Some(row) = self.rows(vec![key.into()]).await?.pop() else { return Ok(None) };
            if row.status != SagaStatus::Parked && !row.is_undo_asked() {
                return Ok(Some(row));
            }
            if row.due.is_none() {
                let (keys, reason) = (ParkedKeys::of([key]), row.error.unwrap_or_default());
                return Err(StoreError::Parked { projection: S::NAME.into(), keys, reason });
            }
            if start.elapsed() > PATIENCE {
                let reason = Some("no node that runs it has tried again".into());
                let (at, until) = (Position(0), row.position);
                return Err(StoreError::Behind { projection: S::NAME.into(), at, until, reason });
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

fn refused<S: Saga>(key: &str, why: &str) -> StoreError {
    Invalid::Request(format!("the instance `{key}` of `{}` {why}", S::NAME)).into()
}
