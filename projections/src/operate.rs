//! Operating projections from any process, also from one that does not have their code.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eventstore_core::{
    __private::{SHADOW, Sweep, swept, swept_within},
    Checkpoint, DeadLetter, Invalid, Order, ParkedKeys, Position, Rows, Shard, Store, StoreError, Transaction,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::{
    admission::{Cause, Word, failure},
    control::{self, PROJECTIONS, Row, list, there},
    inline,
    letters::{self, first_now},
    names,
    nodes::{Beat, NODES},
    requests::{TryRun, What},
    status::{self, State, Status},
};

/// How long to wait for a node to do what was asked of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How many letters of a key are looked at: the first ones of the key, and of a stream of that name.
const FEW: usize = 8;
/// A node that has not beaten for so long, by its own clock, is taken for gone.
const GONE: Duration = Duration::from_secs(10);

/// The projections of a store: how they are, and what they are to do. Also from a process that runs none of them.
///
/// A name is that of a read model or projection, `balance`, if it has one version in this store; else with the version,
/// `balance@2`.
#[derive(Clone)]
pub struct Projections {
    pub(crate) store: Store,
    poke: Option<Arc<Notify>>,
}

impl Projections {
    /// Those of a store.
    pub fn new(store: &Store) -> Self {
        Self { store: inline::beneath(store), poke: None }
    }

    pub(crate) fn here(store: &Store, poke: Arc<Notify>) -> Self {
        Self { store: store.clone(), poke: Some(poke) }
    }

    pub(crate) fn poke(&self) {
        if let Some(poke) = &self.poke {
            poke.notify_one();
        }
    }

    /// The full name.
    pub(crate) async fn name(&self, name: &str) -> Result<String, StoreError> {
        let store = self.store.as_ref();
        let shards = store.shards(None).await?;
        let mut names: Vec<_> = shards.into_iter().map(|(shard, _)| shard.projection).collect();
        // Also those that no node has begun to run yet.
        let known: BTreeMap<String, Row> = there(control::rows(store, &PROJECTIONS).await)?;
        names.extend(known.into_keys());
        names.sort_unstable();
        names.dedup();
        names.retain(|there| there == name || !there.ends_with(SHADOW));
        if names.iter().any(|there| there == name) {
            return Ok(name.into());
        }
        let versions: Vec<_> =
            names.iter().filter(|there| there.rsplit_once('@').is_some_and(|(model, _)| model == name)).collect();
        match versions[..] {
            [one] => Ok(one.clone()),
            [] => Err(Invalid::Request(format!("there is no projection `{name}`: there are {}", list(&names))).into()),
            _ => Err(Invalid::Request(format!("`{name}` has several versions: say {}", list(&versions))).into()),
        }
    }

    /// How they are, by name: all that the store knows, whichever node runs them, with the end of the log.
    pub async fn status(&self) -> Result<Vec<Status>, StoreError> {
        let store = self.store.as_ref();
        let head = self.store.head().await?;
        let rows: BTreeMap<String, Row> = there(control::rows(store, &PROJECTIONS).await)?;
        let living = self.living().await?;
        let now = store.now();
        let known = rows.keys().map(|name| (name.clone(), vec![]));
        let mut projections: BTreeMap<String, Vec<(Shard, Checkpoint)>> = known.collect();
        for (shard, at) in store.shards(None).await? {
            projections.entry(shard.projection.clone()).or_default().push((shard, at));
        }
        let status = |(name, shards): (String, Vec<_>)| {
            let mut status = Status::new(name);
            status.look(shards);
            status.head = head;
            let row = rows.get(&status.name);
            status.target = Position(row.map_or(0, |row| row.target));
            status.current = names::current(&rows, names::model(&status.name)) == Some(&*status.name);
            status.state = match row.map(|row| &*row.state) {
                Some("paused") => State::Paused,
                Some("failed") => State::Failed,
                Some("kept") => State::Kept,
                _ if !living.iter().any(|beat| beat.projections.contains(&status.name)) => State::Detached,
                _ if status.position >= status.target => State::Active,
                _ => State::Booting,
            };
            status.stopped = status.state == State::Failed;
            status.error = row.and_then(|row| failure(&status.name, row));
            status
        };
        let mut all: Vec<_> = projections.into_iter().map(status).collect();
        for status in &mut all {
            let letters = letters::first(store, &status.name).await?;
            status.parked = ParkedKeys::of(letters.iter().map(|letter| &*letter.key)).count;
        }
        for status in all.iter_mut().filter(|status| status.lag() > 0) {
            status.next(status::next(store, status.position).await?, now);
        }
        Ok(all)
    }

    /// The nodes that live, as far as the clock of this process can tell.
    async fn living(&self) -> Result<Vec<Beat>, StoreError> {
        let store = self.store.as_ref();
        let nodes: BTreeMap<String, Beat> = there(control::rows(store, &NODES).await)?;
        let now = store.now();
        Ok(nodes.into_values().filter(|beat| beat.beat_at + GONE > now).collect())
    }

    /// Whether a node that lives runs a projection, as a transaction sees it.
    pub(crate) async fn lives_within(&self, transaction: &mut dyn Transaction, name: &str) -> Result<bool, StoreError> {
        let now = self.store.as_ref().now();
        let nodes = Rows::Where { table: NODES, equal: vec![], order: Order::default(), limit: None };
        let nodes = transaction.rows(nodes).await?;
        let beats = nodes.iter().filter_map(|(_, row)| serde_json::from_str::<Beat>(row.get()).ok());
        Ok(beats.filter(|beat| beat.beat_at + GONE > now).any(|beat| beat.projections.iter().any(|one| one == name)))
    }

    /// Whether a node that lives runs a projection.
    pub(crate) async fn lives(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.living().await?.iter().any(|beat| beat.projections.iter().any(|there| there == name)))
    }

    /// Stops a projection, on all nodes and at once: when this returns, nothing more is written by it. It stays so until it
    /// is resumed, whatever is started again.
    pub async fn pause(&self, name: &str) -> Result<(), StoreError> {
        let name = self.name(name).await?;
        let store = self.store.as_ref();
        store.create(&PROJECTIONS).await?;
        control::set(store, &name, "paused", None).await?;
        self.take_away(&name).await
    }

    /// Lets a projection that was paused, or that has failed, go on.
    pub async fn resume(&self, name: &str) -> Result<(), StoreError> {
        let name = self.name(name).await?;
        let store = self.store.as_ref();
        store.create(&PROJECTIONS).await?;
        control::set(store, &name, "active", None).await?;
        self.poke();
        Ok(())
    }

    /// Has a projection or subscription hand over the events that it has passed without reading them, before it goes on: it
    /// is [`StoreError::Missed`], since a release reads events of a name that the one before did not. They come after
    /// later events, in the order of the log among themselves; each once in a projection in SQL.
    pub async fn deliver_missed(&self, name: &str) -> Result<(), StoreError> {
        self.said(name, |cause| match cause {
            Cause::Missed(_) => Some(Word::DeliverMissed { names: cause.names() }),
            Cause::Newer(_) => None,
        })
        .await
    }

    /// Has a processor go on without events that it has not read, and never will: those it has passed
    /// ([`StoreError::Missed`]), or those that only newer programs read, none of which runs any more
    /// ([`StoreError::Newer`]).
    pub async fn accept(&self, name: &str) -> Result<(), StoreError> {
        self.said(name, |cause| Some(Word::Accept { names: cause.names() })).await
    }

    /// Says what is to become of the events that a processor has failed for.
    async fn said(&self, name: &str, word: impl Fn(&Cause) -> Option<Word> + Send) -> Result<(), StoreError> {
        let (_, name) = (self.known().await?, self.name(name).await?);
        let store = self.store.as_ref();
        let mut transaction = store.begin().await?;
        transaction.lock_projection(&name).await?;
        let known = control::row(&mut *transaction, &name).await?.filter(|row| row.state == "failed");
        let word = known.as_ref().and_then(Cause::of).and_then(|cause| word(&cause));
        let (Some(mut known), Some(word)) = (known, word) else {
            transaction.rollback().await?;
            return Err(Invalid::Request(format!("`{name}` has missed no events: nothing is to be decided")).into());
        };
        (known.state, known.reason, known.cause, known.since) = ("active".into(), None, None, store.now());
        known.word = word.json();
        control::put(&mut *transaction, &name, &known).await?;
        transaction.commit().await?;
        self.poke();
        Ok(())
    }

    /// Ends what runs: the shards wait for a node to take them, or are taken again by the same node, which then looks
    /// at everything anew.
    async fn take_away(&self, name: &str) -> Result<(), StoreError> {
        let mut transaction = self.store.as_ref().begin().await?;
        let mut shards = transaction.lock_projection(name).await?;
        for (_, at) in &mut shards {
            (at.owner, at.epoch) = (None, at.epoch + 1);
        }
        transaction.put_shards(name, shards).await?;
        transaction.commit().await?;
        self.poke();
        Ok(())
    }

    /// What a projection could not process.
    pub fn dead_letters(&self, name: &str) -> DeadLetters {
        DeadLetters { projections: self.clone(), name: name.into() }
    }
}

/// The events that a projection could not process, and those that wait behind them.
#[derive(Clone)]
pub struct DeadLetters {
    projections: Projections,
    name: String,
}

impl DeadLetters {
    /// All, in the order of the log, also those that were passed over. A key gets one for each of its events while it waits:
    /// [`first`](Self::first) does not read those.
    pub async fn list(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let name = self.projections.name(&self.name).await?;
        let rows = self.projections.store.as_ref().rows(letters::wanted(&name, None, None)).await;
        letters::read(there(rows)?)
    }

    /// The first one of each key that waits, in the order of the log: the event that could not be processed, and why.
    pub async fn first(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let name = self.projections.name(&self.name).await?;
        letters::first(self.projections.store.as_ref(), &name).await
    }

    /// Tries the events of a key again, in their order, on the node that runs its shard. Returns when all are processed;
    /// the event that cannot be is [`StoreError::Parked`], and it and those behind it wait on.
    pub async fn retry(&self, key: &str) -> Result<(), StoreError> {
        let name = self.projections.name(&self.name).await?;
        let waiting = self.waiting(&name, key).await?;
        let first = waiting.first().cloned().ok_or_else(|| self.nothing(&name, key))?;
        // One that is gone was tried by itself meanwhile.
        self.due(&name, key, &first_now(waiting, self.projections.store.as_ref().now())).await?;
        self.wait(&name, key, &first).await
    }

    /// Tries all keys again; see [`retry`](Self::retry). Returns how many are processed and how many wait on.
    pub async fn retry_all(&self) -> Result<(usize, usize), StoreError> {
        let name = self.projections.name(&self.name).await?;
        let mut keys = letters::first(self.projections.store.as_ref(), &name).await?;
        keys.sort_by(|a, b| a.key.cmp(&b.key));
        keys.dedup_by(|a, b| a.key == b.key);
        let (mut done, mut left) = (0, 0);
        for letter in keys {
            match self.retry(&letter.key).await {
                Ok(()) => done += 1,
                Err(StoreError::Parked { .. }) => left += 1,
                // It was processed by itself since it was listed.
                Err(StoreError::Invalid(_)) => done += 1,
                Err(error) => return Err(error),
            }
        }
        Ok((done, left))
    }

    /// Passes over the event that a key waits for, for good and for a reason, which is kept; the events behind it are
    /// tried. Gives what was passed over. Whether those behind it could be processed is an error of
    /// [`retry`](Self::retry)'s kind.
    pub async fn skip(&self, key: &str, reason: &str) -> Result<DeadLetter, StoreError> {
        let name = self.projections.name(&self.name).await?;
        let mut letters = self.waiting(&name, key).await?.into_iter();
        let mut skipped = letters.next().ok_or_else(|| self.nothing(&name, key))?;
        (skipped.skipped, skipped.retry_at) = (Some(reason.replace('\0', "\\0")), None);
        let mut next = letters.next();
        if let Some(next) = &mut next {
            next.retry_at = Some(self.projections.store.as_ref().now());
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

    /// Shows what would happen if the events of a key were tried now, on the node that runs its shard, in a transaction
    /// that is rolled back. What reaches outside of the database is left out.
    pub async fn try_run(&self, key: &str) -> Result<TryRun, StoreError> {
        let name = self.projections.name(&self.name).await?;
        let tried = self.projections.ask(&name, key, What::Try).await?;
        serde_json::from_value(tried).map_err(|error| StoreError::Damaged(error.into()))
    }

    /// The first letters of a key that wait.
    async fn waiting(&self, name: &str, key: &str) -> Result<Vec<DeadLetter>, StoreError> {
        swept(self.projections.store.as_ref(), Sweep::all_of(name, key, FEW)).await
    }

    fn nothing(&self, name: &str, key: &str) -> StoreError {
        Invalid::Request(format!("no event of `{name}` waits for the key `{key}`")).into()
    }

    /// Writes down letters that still wait, and has the node that runs the shard look at them. Says whether the first one does:
    /// the node that runs the shard may have processed it since it was read, and it must not come back.
    async fn due(&self, name: &str, key: &str, letters: &[DeadLetter]) -> Result<bool, StoreError> {
        let store = self.projections.store.as_ref();
        let mut transaction = store.begin().await?;
        control::begin_again(&mut *transaction, name, |shard| shard.has(key)).await?;
        let there = swept_within(&mut *transaction, Sweep::all_of(name, key, FEW)).await?;
        let waits = |letter: &&DeadLetter| there.iter().any(|there| there.event == letter.event);
        let still: Vec<_> = letters.iter().filter(waits).cloned().collect();
        if still.first().map(|letter| letter.event) != letters.first().map(|letter| letter.event) {
            transaction.rollback().await?;
            return Ok(false);
        }
        transaction.write(letters::changes(&still, &[])?).await?;
        transaction.commit().await?;
        self.projections.poke();
        Ok(true)
    }

    /// Returns when a letter is gone, and all behind it; or when it was tried once more.
    async fn wait(&self, name: &str, key: &str, first: &DeadLetter) -> Result<(), StoreError> {
        let (start, mut pause) = (Instant::now(), Duration::from_millis(2));
        loop {
            let Some(now) = self.waiting(name, key).await?.into_iter().next() else { return Ok(()) };
            // Another one is in the way now, or the same failed again.
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
    use eventstore_core::{__private::LETTERS, MemoryStore, NewEvent, Raw, StreamId, Version};
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
        control::change(store.as_ref(), letters::changes(std::slice::from_ref(&letter), &[])?).await?;
        let letters = Projections::new(&store).dead_letters("p@1");
        // It is read, and then the node that runs the shard processes it.
        let read = letters.waiting("p@1", "b").await?;
        assert!(letters.due("p@1", "b", &read).await?, "it waits still");
        control::change(store.as_ref(), letters::changes(&[], &read)?).await?;
        assert!(!letters.due("p@1", "b", &read).await?);
        assert_eq!(letters.waiting("p@1", "b").await?, []);
        Ok(())
    }
}
