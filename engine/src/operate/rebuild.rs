//! Builds what a processor has made anew: the table of a read model beside the one that is read, anything else in its place.
//! Stops shards at one position for as long as an operator needs it, and removes what is not wanted any more.

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
        if_built, list,
        names::{current_or_first, model},
        nodes::NODES,
    },
    run::admission::Word,
};

/// How long they need not wait for each other.
pub const UNHELD: Duration = Duration::from_secs(1);

impl Processors {
    /// Has a projection in SQL or a subscription begin again.
    pub async fn restart(&self, name: &str) -> Result<Rebuild, StoreError> {
        let store = self.store.as_ref();
        let (head, now) = (self.store.head().await?, store.now());
        let mut transaction = store.begin().await?;
        transaction.lock_projection(name).await?;
        let known = record::row(&mut *transaction, name).await?;
        let mut known = known.unwrap_or_else(|| Row::new(now, head));
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

    pub async fn known(&self) -> Result<BTreeMap<String, Row>, StoreError> {
        let store = self.store.as_ref();
        // Before any transaction: in one that is begun, a table that is not there would be its end.
        for table in [PROCESSORS, LETTERS] {
            store.create(&table).await?;
        }
        record::rows(store, &PROCESSORS).await
    }

    /// Has a read model built again from the first event, beside the one there is: that one is read and kept up to date
    /// meanwhile. Once it is whole it follows the log as well; `promote` has the two change places.
    ///
    /// It is [throttled](Self::throttle) as the other is, until something else is said. A rebuild that is going on already
    /// goes on: restarts, other nodes and [`pause`](Self::pause) of [`Rebuild::name`] do no harm.
    ///
    /// A projection in SQL begins again in its place, once a node that runs it has emptied its tables
    /// (`Projection::clear`). So does a subscription, from where it began first: everything is
    /// handed over again. The dead letters of both are forgotten.
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

    /// Begins a shadow in place of one that was kept, unless it is being built already.
    async fn begin(&self, shadow: &str, pace: Option<u64>) -> Result<(), StoreError> {
        let store = self.store.as_ref();
        let head = self.store.head().await?;
        let mut transaction = store.begin().await?;
        transaction.lock_projection(shadow).await?;
        if record::row(&mut *transaction, shadow).await?.is_some_and(|row| row.state != ProcessorState::Kept) {
            return transaction.rollback().await;
        }
        self.clear(&mut *transaction, shadow).await?;
        let row = Row { pace, ..Row::new(store.now(), head) };
        record::put(&mut *transaction, shadow, &row).await?;
        transaction.commit().await
    }

    /// Removes everything there is of a projection, but for what is known of it.
    async fn clear(&self, transaction: &mut dyn Transaction, name: &str) -> Result<(), StoreError> {
        transaction.put_shards(name, vec![]).await?;
        transaction.remove(name).await?;
        let letters = dead_letters::read(transaction.rows(dead_letters::wanted(name, None)).await?)?;
        if !letters.is_empty() {
            transaction.write(dead_letters::changes(&[], &letters)?).await?;
        }
        Ok(())
    }

    /// What is being built under a name: a new version, `balance@2`, or with [`rebuild`](Self::rebuild).
    pub async fn building(&self, name: &str) -> Result<Rebuild, StoreError> {
        let rows = self.known().await?;
        if !rows.contains_key(name) {
            let names: Vec<_> = rows.keys().collect();
            return Err(Invalid::Request(format!("nothing is built as `{name}`: there are {}", list(&names))).into());
        }
        let at = self.store.as_ref().checkpoint(name).await?;
        Ok(Rebuild { projections: self.clone(), name: name.into(), since: (Instant::now(), at) })
    }

    /// Limits how many events a projection processes in a second, all its shards together; `None` lifts the limit. Also of
    /// what is rebuilt, so that it does not keep others from their work.
    ///
    /// A limit of 0 is [`Invalid::Request`]: that is [`pause`](Self::pause).
    pub async fn throttle(&self, name: &str, events: Option<u64>) -> Result<(), StoreError> {
        if events == Some(0) {
            return Err(Invalid::Request(format!("`{name}` cannot be limited to 0 events a second: pause it")).into());
        }
        let (_, name) = (self.known().await?, self.name(name).await?);
        record::update(self.store.as_ref(), &name, |row| row.pace = events).await?;
        self.wake_node();
        Ok(())
    }

    /// Does something while all shards of these projections stop at one position.
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

    /// What was done is done: if they cannot be let go on, their nodes do it after a while.
    async fn let_go(&self, names: &[String], asked_at: Timestamp) {
        if let Err(error) = holds::let_go(self.store.as_ref(), names, asked_at).await {
            tracing::warn!(projections = list(names), %error, "they are held up for a while");
        }
        self.wake_node();
    }

    /// Removes what was built or kept beside the current version, for good: its table, its checkpoint and its dead letters.
    /// The name must be a full one, [`Rebuild::name`] or `balance@1`.
    ///
    /// Also a subscription or a projection in SQL that was given up: its checkpoints, its dead letters, and all that is known of
    /// it. Afterwards it may start again under its name, as for the first time. The tables that a projection in SQL writes to
    /// stay: empty or drop them. A program that keeps it inline must be stopped first.
    ///
    /// [`Invalid::Request`] while a node that has its code lives, and 10 seconds longer where that was killed.
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
        // Not another table that has got the name meanwhile, nor what readers were sent to.
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
    /// Removes all there is of a subscription or a projection in SQL.
    async fn remove(&self, name: &str) -> Result<(), StoreError> {
        let store = self.store.as_ref();
        let refused = |why: &str| Err(Invalid::Request(format!("`{name}` {why}")).into());
        let known = self.known().await?.contains_key(name);
        if !known && store.shards(Some(name)).await?.is_empty() {
            return refused("is no subscription and no projection in SQL, nor the full name of what was built or kept");
        }
        for table in [NODES, RESHARDS] {
            store.create(&table).await?;
        }
        let mut transaction = store.begin().await?;
        transaction.lock_projection(name).await?;
        // A node says that it lives before it locks what it runs.
        if self.lives_within(&mut *transaction, name).await? {
            transaction.rollback().await?;
            return refused("is run by a node that has its code");
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

/// Shards that stop at one position until the operator that wanted it is done, or is gone.
struct Held {
    projections: Processors,
    /// None once they are let go.
    names: Vec<String>,
    asked_at: Timestamp,
}

impl Drop for Held {
    fn drop(&mut self) {
        let names = std::mem::take(&mut self.names);
        // Without a runtime, their nodes do it after a while.
        if let (false, Ok(runtime)) = (names.is_empty(), Handle::try_current()) {
            let (projections, asked_at) = (self.projections.clone(), self.asked_at);
            runtime.spawn(async move { projections.let_go(&names, asked_at).await });
        }
    }
}

/// What is being built: a table beside another, or a new version.
#[derive(Clone)]
pub struct Rebuild {
    projections: Processors,
    name: String,
    since: (Instant, Position),
}

/// How far something is that is being built.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// How far it has come.
    pub position: Position,
    /// Where it is whole.
    pub target: Position,
    /// Positions a second, since one has asked.
    pub rate: f64,
    /// How long it will take, at that rate.
    pub left: Option<Duration>,
}

impl Progress {
    /// Whether it is whole.
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
    /// What it is called: to pause, throttle or discard it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How far it is.
    pub async fn progress(&self) -> Result<Progress, StoreError> {
        let store = self.projections.store.as_ref();
        let row = self.row().await?;
        let (position, target) = (store.checkpoint(&self.name).await?, Position(row.target));
        // Before a node has begun it again, it is where it was.
        let position = if row.word.is_some() { Position(0) } else { position };
        // What is whole stays so, wherever its shards are just now.
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

    /// Returns when it is whole, however long that takes; fails if it cannot go on.
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
