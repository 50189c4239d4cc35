//! Operating processors from any process, including one that does not have their code.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use eventstore_core::{
    Checkpoint, Invalid, Order, ParkedKeys, Position, Rows, Shard, Store, StoreError, Transaction, engine::SHADOW,
};
use tokio::sync::Notify;

use crate::{
    record::{
        self, PROCESSORS, ProcessorState, Row, dead_letters, if_built, list, names,
        nodes::{Beat, NODES},
    },
    run::admission::{Cause, Word, stored_failure},
    status::{self, State, Status},
};

/// How long an operator waits for a node to do what was asked.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long after its last beat a node counts as gone. The beat has the node's clock and is compared with the clock of
/// this process: the two must agree to a few seconds.
const GONE: Duration = Duration::from_secs(10);

/// The processors of a store: reports how they are, and tells them what to do. Works from a process that runs none of
/// them.
///
/// A processor is named as it is declared, `balance`, if the store has one version of it; else with the version,
/// `balance@2`. Methods that take a name fail with [`Invalid::Request`] if no processor has it, or several versions do.
/// Every method may fail with an error of the store, such as [`StoreError::Unavailable`].
#[derive(Clone)]
pub struct Processors {
    pub(crate) store: Store,
    wake: Option<Arc<Notify>>,
}

impl Processors {
    /// Returns the processors of a store.
    pub fn new(store: &Store) -> Self {
        Self { store: store.beneath(), wake: None }
    }

    /// For crates that add verbs: returns the store that the processors run on.
    #[doc(hidden)]
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn here(store: &Store, wake: Arc<Notify>) -> Self {
        Self { store: store.clone(), wake: Some(wake) }
    }

    #[doc(hidden)]
    pub fn wake_node(&self) {
        if let Some(wake) = &self.wake {
            wake.notify_one();
        }
    }

    /// Returns the full name of a processor. [`Invalid::Request`] if there is none, or if there are several versions.
    pub(crate) async fn name(&self, name: &str) -> Result<String, StoreError> {
        let store = self.store.as_ref();
        let shards = store.shards(None).await?;
        let mut names: Vec<_> = shards.into_iter().map(|(shard, _)| shard.projection).collect();
        // Include processors that no node has begun to run yet.
        let known: BTreeMap<String, Row> = if_built(record::rows(store, &PROCESSORS).await)?;
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

    /// Returns the status of every processor that the store knows, whichever node runs it, in the order of their names.
    /// The head is the end of the log.
    pub async fn status(&self) -> Result<Vec<Status>, StoreError> {
        let store = self.store.as_ref();
        let head = self.store.head().await?;
        let rows: BTreeMap<String, Row> = if_built(record::rows(store, &PROCESSORS).await)?;
        let living = self.living().await?;
        let now = store.now();
        let known = rows.keys().map(|name| (name.clone(), vec![]));
        let mut projections: BTreeMap<String, Vec<(Shard, Checkpoint)>> = known.collect();
        for (shard, at) in store.shards(None).await? {
            projections.entry(shard.projection.clone()).or_default().push((shard, at));
        }
        let status = |(name, shards): (String, Vec<_>)| {
            let mut status = Status::new(name);
            status.set_shards(shards);
            status.head = head;
            let row = rows.get(&status.name);
            status.target = Position(row.map_or(0, |row| row.target));
            status.current = names::current(&rows, names::model(&status.name)) == Some(&*status.name);
            let runs = living.iter().any(|beat| beat.projections.contains(&status.name));
            status.state = State::of(row, runs, status.position >= status.target);
            status.stopped = status.state == State::Failed;
            status.error = row.and_then(|row| stored_failure(&status.name, row));
            status
        };
        let mut all: Vec<_> = projections.into_iter().map(status).collect();
        for status in &mut all {
            match dead_letters::first(store, &status.name).await {
                Ok(letters) => status.parked = ParkedKeys::of(letters.iter().map(|letter| &*letter.key)).count,
                // A later release may have written a dead letter in a form of its own. The others are reported.
                Err(error @ StoreError::Row { .. }) => {
                    status.error.get_or_insert_with(|| Arc::new(error));
                }
                Err(error) => return Err(error),
            }
        }
        for status in all.iter_mut().filter(|status| status.lag() > 0) {
            status.set_next(status::next(store, status.position).await?, now);
        }
        Ok(all)
    }

    /// Returns the nodes that live: the clock of this process is less than 10 seconds past their last beat.
    async fn living(&self) -> Result<Vec<Beat>, StoreError> {
        let store = self.store.as_ref();
        let nodes: BTreeMap<String, Beat> = if_built(record::rows(store, &NODES).await)?;
        let now = store.now();
        Ok(nodes.into_values().filter(|beat| beat.beat_at + GONE > now).collect())
    }

    /// Returns whether a living node has the code of a processor, as a transaction sees it.
    pub(crate) async fn lives_within(&self, transaction: &mut dyn Transaction, name: &str) -> Result<bool, StoreError> {
        let now = self.store.as_ref().now();
        let nodes = Rows::Where { table: NODES, equal: vec![], order: Order::default(), limit: None };
        let nodes = transaction.rows(nodes).await?;
        let beats = nodes.iter().filter_map(|(_, row)| serde_json::from_str::<Beat>(row.get()).ok());
        Ok(beats.filter(|beat| beat.beat_at + GONE > now).any(|beat| beat.projections.iter().any(|one| one == name)))
    }

    /// Returns whether a living node has the code of a processor.
    pub(crate) async fn lives(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.living().await?.iter().any(|beat| beat.projections.iter().any(|there| there == name)))
    }

    /// Stops a processor on all nodes at once: when this returns, no node writes anything more for it. It stays paused
    /// until it is [resumed](Self::resume), even if its programs are restarted. A store that keeps it inline goes on
    /// with each append.
    ///
    /// [`Invalid::Request`] if there is no such processor, if it is kept for a rollback, or if a later release has given
    /// it a state that this one does not know.
    pub async fn pause(&self, name: &str) -> Result<(), StoreError> {
        let name = self.turn_to(name, ProcessorState::Paused).await?;
        self.take_away(&name).await
    }

    /// Lets a processor that was paused, or that has failed, go on. [`Invalid::Request`] as for [`pause`](Self::pause).
    pub async fn resume(&self, name: &str) -> Result<(), StoreError> {
        self.turn_to(name, ProcessorState::Active).await?;
        self.wake_node();
        Ok(())
    }

    /// Gives a processor another state, and returns its full name.
    async fn turn_to(&self, name: &str, state: ProcessorState) -> Result<String, StoreError> {
        let name = self.name(name).await?;
        let store = self.store.as_ref();
        store.create(&PROCESSORS).await?;
        let now = store.now();
        let change = |row: &mut Row, _: &[(Shard, Checkpoint)]| {
            let known = !matches!(row.state, ProcessorState::Kept | ProcessorState::Later(_));
            if known {
                record::turn_to(row, state, None, now);
            }
            known
        };
        let why = match record::update_if(store, &name, change).await? {
            Some((_, true)) => return Ok(name),
            Some((Row { state: ProcessorState::Kept, .. }, _)) => {
                format!("`{name}` is kept for a rollback, and no node runs it")
            }
            Some((row, _)) => {
                format!(
                    "a later release has said that `{name}` is `{}`: say it with a program of that release",
                    row.state
                )
            }
            None => format!("`{name}` was discarded meanwhile"),
        };
        Err(Invalid::Request(why).into())
    }

    /// Has a processor process the events that it passed without reading them, before it goes on. It has failed with
    /// [`StoreError::Missed`], because its program reads events of a name that the release before did not. These events
    /// come after later ones, in the order of the log among themselves. A projection in SQL processes each of them
    /// once.
    ///
    /// [`Invalid::Request`] if the processor has not failed with that error.
    pub async fn deliver_missed(&self, name: &str) -> Result<(), StoreError> {
        self.decide(name, |cause| match cause {
            Cause::Missed(_) => Some(Word::DeliverMissed { names: cause.names() }),
            Cause::Newer(_) => None,
        })
        .await
    }

    /// Has a processor go on without events that it has not read, and never will: those it has passed
    /// ([`StoreError::Missed`]), or those that only newer programs read, none of which runs any more
    /// ([`StoreError::Newer`]).
    ///
    /// [`Invalid::Request`] if the processor has failed with neither error.
    pub async fn accept(&self, name: &str) -> Result<(), StoreError> {
        self.decide(name, |cause| Some(Word::Accept { names: cause.names() })).await
    }

    /// Records what the operator decided about the events that a processor has failed for.
    async fn decide(&self, name: &str, word: impl Fn(&Cause) -> Option<Word> + Send) -> Result<(), StoreError> {
        let (_, name) = (self.known().await?, self.name(name).await?);
        let store = self.store.as_ref();
        let mut transaction = store.begin().await?;
        transaction.lock_projection(&name).await?;
        let known = record::row(&mut *transaction, &name).await?.filter(|row| row.state == ProcessorState::Failed);
        let word = known.as_ref().and_then(Cause::of).and_then(|cause| word(&cause));
        let (Some(mut known), Some(word)) = (known, word) else {
            transaction.rollback().await?;
            return Err(Invalid::Request(format!("`{name}` has missed no events: nothing is to be decided")).into());
        };
        (known.state, known.reason, known.cause, known.since) = (ProcessorState::Active, None, None, store.now());
        known.word = word.json();
        record::put(&mut *transaction, &name, &known).await?;
        transaction.commit().await?;
        self.wake_node();
        Ok(())
    }

    /// Takes the shards from their nodes. Any node may claim them again, the same one too, and then reads everything
    /// anew.
    async fn take_away(&self, name: &str) -> Result<(), StoreError> {
        let mut transaction = self.store.as_ref().begin().await?;
        let mut shards = transaction.lock_projection(name).await?;
        for (_, at) in &mut shards {
            (at.owner, at.epoch) = (None, at.epoch + 1);
        }
        transaction.put_shards(name, shards).await?;
        transaction.commit().await?;
        self.wake_node();
        Ok(())
    }
}
