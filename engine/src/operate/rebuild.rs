//! Rebuilds what a processor has made: a read model in a shadow of its table, any other processor in place. Holds
//! shards at one position while an operator needs it, and discards what is no longer wanted.

use std::{collections::BTreeMap, fmt, time::Duration};

use eventstore_core::{
    Invalid, Position, StoreError, Timestamp, Transaction,
    engine::{LETTERS, SHADOW},
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use crate::{
    failure::Failure,
    operate::processors::Processors,
    record::{
        self, PROCESSORS, ProcessorState, Row, dead_letters,
        holds::{self, RESHARDS},
        if_built, instances, list,
        names::{current_or_first, model},
        nodes::NODES,
    },
    run::admission::Word,
};

/// How long an operator waits for two tables to meet at one position by themselves, before it holds their shards there.
pub const UNHELD: Duration = Duration::from_secs(1);

impl Processors {
    /// Tells the nodes to begin a projection in SQL or a subscription again.
    pub(crate) async fn restart(&self, name: &str) -> Result<Rebuild, StoreError> {
        let store = self.store.as_ref();
        let (head, now) = (self.store.head().await?, store.now());
        let mut transaction = store.begin().await?;
        transaction.lock_projection(name).await?;
        let known = record::row(&mut *transaction, name).await?;
        let mut known = known.unwrap_or_else(|| Row::new(now, head));
        if known.instances.is_some() {
            transaction.rollback().await?;
            let why = "is a saga, a reactor or a cron schedule, and the commands it has sent stay sent: discard it to \
                       begin it anew";
            return Err(Invalid::Request(format!("`{name}` {why}")).into());
        }
        if known.state == ProcessorState::Failed {
            (known.state, known.reason, known.cause, known.since) = (ProcessorState::Active, None, None, now);
        }
        (known.word, known.target, known.built_at) = (Word::Rebuild.json(), head.0, None);
        record::put(&mut *transaction, name, &known).await?;
        record::begin_again(&mut *transaction, name, |_| true).await?;
        transaction.commit().await?;
        self.wake_node();
        self.building(name).await
    }

    /// Returns the rows of all processors, by name. Makes the tables of processors and dead letters if there are none.
    #[doc(hidden)]
    pub async fn known(&self) -> Result<BTreeMap<String, Row>, StoreError> {
        let store = self.store.as_ref();
        // Outside of any transaction: reading a table that does not exist would end one.
        for table in [PROCESSORS, LETTERS] {
            store.create(&table).await?;
        }
        record::rows(store, &PROCESSORS).await
    }

    /// Builds a read model again from the first event, in a shadow of its table. The current table is read and kept up
    /// to date meanwhile. The shadow follows the log once it is built; `promote` has the two tables change places.
    ///
    /// The shadow starts with the [limit](Self::throttle) of the current table. If a rebuild is going on, it goes on:
    /// restarts, other nodes and [`pause`](Self::pause) of [`Rebuild::name`] do not disturb it.
    ///
    /// A projection in SQL begins again in place, once a node that runs it has emptied its tables
    /// (`Projection::clear`). A subscription begins again where it first began, and hands every event over again. The
    /// dead letters of both are deleted.
    ///
    /// [`Invalid::Request`] if there is no such processor, if it is a saga or a reactor, or if the name stands for several
    /// versions.
    pub async fn rebuild(&self, name: &str) -> Result<Rebuild, StoreError> {
        let rows = self.known().await?;
        let name = self.name(name).await?;
        let name = name.strip_suffix(SHADOW).unwrap_or(&name);
        if !name.contains('@') {
            return self.restart(name).await;
        }
        let shadow = format!("{name}{SHADOW}");
        self.begin(&shadow, rows.get(name).and_then(|row| row.pace)).await?;
        self.wake_node();
        self.building(&shadow).await
    }

    /// Begins a shadow, replacing one that is the way back; does nothing if a shadow is being built.
    async fn begin(&self, shadow: &str, pace: Option<u64>) -> Result<(), StoreError> {
        let store = self.store.as_ref();
        store.create(&PROCESSORS).await?;
        let head = self.store.head().await?;
        let mut transaction = store.begin().await?;
        transaction.lock_projection(shadow).await?;
        let before = record::row(&mut *transaction, shadow).await?;
        if before.as_ref().is_some_and(|row| !row.is_way_back()) {
            return transaction.rollback().await;
        }
        self.clear(&mut *transaction, shadow).await?;
        let now = store.now();
        let since = before.map_or(now, |before| record::later(before.since, now));
        let row = Row { pace, ..Row::new(since, head) };
        record::put(&mut *transaction, shadow, &row).await?;
        transaction.commit().await
    }

    /// Removes the shards, the table and the dead letters of a processor, but not its row in the table of processors.
    async fn clear(&self, transaction: &mut dyn Transaction, name: &str) -> Result<(), StoreError> {
        transaction.put_shards(name, vec![]).await?;
        transaction.remove(name).await?;
        let letters = dead_letters::read(transaction.rows(dead_letters::wanted(name, None)).await?)?;
        if !letters.is_empty() {
            transaction.write(dead_letters::changes(&[], &letters)?).await?;
        }
        Ok(())
    }

    /// Returns what is being built under a full name: a new version, `balance@2`, or a rebuild
    /// ([`rebuild`](Self::rebuild)).
    ///
    /// [`Invalid::Request`] if nothing has that name.
    pub async fn building(&self, name: &str) -> Result<Rebuild, StoreError> {
        let rows = self.known().await?;
        if !rows.contains_key(name) {
            let names: Vec<_> = rows.keys().collect();
            return Err(Invalid::Request(format!("nothing is built as `{name}`: there are {}", list(&names))).into());
        }
        let at = self.store.as_ref().checkpoint(name).await?;
        Ok(Rebuild { projections: self.clone(), name: name.into(), since: (Instant::now(), at) })
    }

    /// Limits how many events a processor processes in a second, all its shards together; `None` lifts the limit. A
    /// limit on a rebuild leaves the database to others.
    ///
    /// [`Invalid::Request`] if the limit is 0 (use [`pause`](Self::pause)), or if there is no such processor.
    pub async fn throttle(&self, name: &str, events: Option<u64>) -> Result<(), StoreError> {
        if events == Some(0) {
            return Err(Invalid::Request(format!("`{name}` cannot be limited to 0 events a second: pause it")).into());
        }
        let (_, name) = (self.known().await?, self.name(name).await?);
        record::update(self.store.as_ref(), &name, |row| row.pace = events).await?;
        self.wake_node();
        Ok(())
    }

    /// Runs a future while all shards of these processors are held at one position: the furthest that any had reached.
    /// [`StoreError::Busy`] if the shards of one are being changed.
    #[doc(hidden)]
    pub async fn held<T>(
        &self,
        names: &[&str],
        what: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let mut held = Held { projections: self.clone(), names, asked_at: self.store.as_ref().now() };
        if let Err(error) = holds::hold(self.store.as_ref(), &held.names, held.asked_at).await {
            held.names.clear();
            return Err(error);
        }
        self.wake_node();
        let done = what.await;
        self.let_go(&held.names, held.asked_at).await;
        held.names.clear();
        done
    }

    /// Lets the shards go on. An error is only logged, because the operator's work is done; the nodes let the shards go
    /// on by themselves after 35 seconds.
    async fn let_go(&self, names: &[String], asked_at: Timestamp) {
        if let Err(error) = holds::let_go(self.store.as_ref(), names, asked_at).await {
            tracing::warn!(projections = list(names), %error, "they are held up for a while");
        }
        self.wake_node();
    }

    /// Removes what was built or kept next to the current version, for good: its table, its checkpoint and its dead
    /// letters. The name must be a full one, [`Rebuild::name`] or `balance@1`.
    ///
    /// Also removes a subscription, a projection in SQL, a saga, a reactor or a cron schedule (`cron:interest`) that was
    /// given up: its checkpoints, its dead letters, the instances of a saga or reactor with their timers, the next tick
    /// of a schedule, and its row in the table of processors. It may then start again under its name, as for the first
    /// time: a saga that begins with the first event answers all events again, also for instances that an operator has
    /// cancelled. The tables that a projection in SQL writes to stay: empty or drop them. Stop every program that keeps
    /// the projection inline first. Commands that a process has sent before are not recorded twice if it sends the same
    /// again.
    ///
    /// [`Invalid::Request`] if there is nothing of that name, if the table is the current one, or while a node that has
    /// its code lives. A node that was killed counts as living for 10 seconds. A shadow may be discarded while nodes
    /// run.
    pub async fn discard(&self, name: &str) -> Result<(), StoreError> {
        if !name.contains('@') {
            return self.remove(name).await;
        }
        let rows = self.known().await?;
        let refused = |why: &str| Err(Invalid::Request(format!("`{name}` {why}")).into());
        if !rows.contains_key(name) {
            return refused("is not the full name of what was built or kept");
        }
        if current_or_first(&rows, model(name)) == Some(name) {
            return refused("is the current table; it cannot be discarded");
        }
        if !name.ends_with(SHADOW) && self.lives(name).await? {
            return refused("is run by a node that has its code");
        }
        let mut transaction = self.store.as_ref().begin().await?;
        transaction.lock_projection(name).await?;
        // Refuse if another table has got the name meanwhile, or if readers were sent to this one.
        let is = |row: Option<&Row>| row.map(|row| (row.state == ProcessorState::Kept, row.promoted_at));
        if is(record::row(&mut *transaction, name).await?.as_ref()) != is(rows.get(name)) {
            transaction.rollback().await?;
            return refused("has changed places meanwhile");
        }
        self.clear(&mut *transaction, name).await?;
        transaction.write(record::delete(&PROCESSORS, name)).await?;
        transaction.commit().await?;
        self.wake_node();
        Ok(())
    }
}

impl Processors {
    /// Removes everything that is stored of a subscription or a projection in SQL.
    async fn remove(&self, name: &str) -> Result<(), StoreError> {
        let store = self.store.as_ref();
        let refused = |why: &str| Err(Invalid::Request(format!("`{name}` {why}")).into());
        let known = self.known().await?.contains_key(name);
        if !known && store.shards(Some(name)).await?.is_empty() {
            return refused(
                "is no subscription, projection in SQL, saga, reactor or cron schedule, nor the full name of what was \
                 built or kept",
            );
        }
        for table in [NODES, RESHARDS] {
            store.create(&table).await?;
        }
        let mut transaction = store.begin().await?;
        transaction.lock_projection(name).await?;
        // A node writes its beat before it locks what it runs, so a node that begins meanwhile is seen here.
        if self.lives_within(&mut *transaction, name).await? {
            transaction.rollback().await?;
            return refused("is run by a node that has its code");
        }
        if let Some(instances) = record::row(&mut *transaction, name).await?.and_then(|row| row.instances) {
            instances::remove(&mut *transaction, &instances).await?;
        }
        transaction.put_shards(name, vec![]).await?;
        let letters = dead_letters::read(transaction.rows(dead_letters::wanted(name, None)).await?)?;
        if !letters.is_empty() {
            transaction.write(dead_letters::changes(&[], &letters)?).await?;
        }
        for table in [PROCESSORS, RESHARDS] {
            transaction.write(record::delete(&table, name)).await?;
        }
        transaction.commit().await?;
        self.wake_node();
        Ok(())
    }
}

/// Shards that are held at one position until the operator is done or has gone.
struct Held {
    projections: Processors,
    /// Empty once the shards were let go on.
    names: Vec<String>,
    asked_at: Timestamp,
}

impl Drop for Held {
    fn drop(&mut self) {
        let names = std::mem::take(&mut self.names);
        // Without a runtime, the nodes let the shards go on after 35 seconds.
        if let (false, Ok(runtime)) = (names.is_empty(), Handle::try_current()) {
            let (projections, asked_at) = (self.projections.clone(), self.asked_at);
            runtime.spawn(async move { projections.let_go(&names, asked_at).await });
        }
    }
}

/// A build that is going on: the shadow of a table, or a new version.
#[derive(Clone)]
pub struct Rebuild {
    projections: Processors,
    name: String,
    since: (Instant, Position),
}

/// How far a build has come.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// How far all of its shards have come.
    pub position: Position,
    /// The position at which it is built: the end of the log when the build began.
    pub target: Position,
    /// Positions a second, since the [`Rebuild`] was made.
    pub rate: f64,
    /// How long the rest takes at that rate; none if the rate is 0.
    pub left: Option<Duration>,
}

impl Progress {
    /// Returns whether the position has reached the target.
    pub fn is_built(&self) -> bool {
        self.position >= self.target
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, target, rate, left } = self;
        let percent = position.0.min(target.0) as f64 / target.0.max(1) as f64 * 100.0;
        match self.is_built() {
            true => write!(f, "built, at position {position}"),
            false => {
                write!(f, "{percent:.1} %: position {position} of {target}, {rate:.0} events/s")?;
                left.map_or(Ok(()), |left| write!(f, ", {} s left", left.as_secs() + 1))
            }
        }
    }
}

impl Rebuild {
    /// Returns the full name, to pause, throttle or discard it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how far it has come. [`Invalid::Request`] if it was discarded.
    pub async fn progress(&self) -> Result<Progress, StoreError> {
        let store = self.projections.store.as_ref();
        let row = self.row().await?;
        let (position, target) = (store.checkpoint(&self.name).await?, Position(row.target));
        // Until a node has begun it again, the checkpoint is still that of the previous run.
        let position = if row.word.is_some() { Position(0) } else { position };
        // Once built, it stays built, wherever its shards are now.
        let target = if row.built_at.is_some() { target.min(position) } else { target };
        let (since, from) = self.since;
        let rate = (position.0.saturating_sub(from.0)) as f64 / since.elapsed().as_secs_f64().max(1e-3);
        let left = target.0.saturating_sub(position.0) as f64 / rate;
        let left = Duration::try_from_secs_f64(left).ok();
        Ok(Progress { position, target, rate, left })
    }

    async fn row(&self) -> Result<Row, StoreError> {
        let mut rows: BTreeMap<String, Row> =
            if_built(record::rows(self.projections.store.as_ref(), &PROCESSORS).await)?;
        let gone = || Invalid::Request(format!("`{}` was discarded, or took its place", self.name));
        Ok(rows.remove(&self.name).ok_or_else(gone)?)
    }

    /// Returns when it is built, however long that takes. [`StoreError::Stopped`] if it has failed,
    /// [`Invalid::Request`] if it was discarded.
    pub async fn wait(&self) -> Result<(), StoreError> {
        let mut pause = Duration::from_millis(5);
        while !self.progress().await?.is_built() {
            let row = self.row().await?;
            if row.state == ProcessorState::Failed {
                let reason = Failure::program(row.reason.unwrap_or_default()).into();
                return Err(StoreError::Stopped { projection: self.name.clone(), reason });
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
        Ok(())
    }
}
