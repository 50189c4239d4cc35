//! A process among others that run the same: which shards are its own, and since when.
//!
//! Each node counts its beats in a table. Whoever sees a node not beat for a lease, by its own clock, takes its shards
//! over: no two clocks are ever compared. A shard that changes hands gets a new epoch, and every write of a shard first
//! locks its row and looks at the epoch: a node that was frozen, and does not know it yet, writes nothing.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    error::Error,
    future::pending,
    sync::Arc,
    time::Duration,
};

use eventstore_core::{
    __private::{Brief, LETTERS},
    Changes, Checkpoint, Column, EventStore, Kind, Position, Query, Read, Shard, Store, StoreError, Table, Timestamp,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use uuid::Uuid;

use crate::{
    control::{self, Row},
    failed::{Blame, Failed},
    follower::Follower,
    measure, operate, requests,
    reshard::{self, RESHARDS, Wanted},
    shard::{Ended, Options, Work, beginning},
    status::{self, State, Status},
    tail::Tail,
    versions,
};

/// How many beats there are in a lease.
const BEATS: u32 = 5;

/// The table of nodes.
pub(crate) const NODES: Table = Table {
    shadow: false,
    name: "nodes",
    version: 0,
    columns: &[
        Column::new("beat", Kind::Integer),
        Column::new("beat_at", Kind::Time),
        Column::new("started_at", Kind::Time),
        Column::new("process", Kind::Text),
        Column::new("projections", Kind::Json),
    ],
};

/// A node, as it says it is.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Beat {
    pub(crate) beat: i64,
    /// By its own clock: for people.
    pub(crate) beat_at: Timestamp,
    started_at: Timestamp,
    /// Which process it is, for people.
    process: String,
    pub(crate) projections: Vec<String>,
}

/// One projection that this node can run.
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) follower: Arc<dyn Follower>,
    pub(crate) options: Options,
    pub(crate) report: watch::Sender<Status>,
    /// How many events it may take in in a second.
    pace: watch::Sender<Option<u64>>,
    /// Whether it is only run while somebody wants it.
    shadow: bool,
    prepared: bool,
    /// Since when it is wanted, if it is a shadow.
    since: Option<Timestamp>,
    /// Since when it cannot run here: its code must be mended.
    dead: Option<Timestamp>,
    shards: HashMap<Shard, Running>,
}

/// A shard that runs here.
struct Running {
    epoch: u64,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Says that this node lives, for as long as it does.
async fn beat(store: Store, node: Uuid, mut beat: Beat, every: Duration) {
    let mut beats = interval(every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        beat.beat += 1;
        beat.beat_at = store.as_ref().now();
        // The table may not be there yet; and whoever cannot reach the store is told by everything else.
        if let Err(error) = control::write(store.as_ref(), &NODES, &node.to_string(), &beat).await {
            tracing::debug!(%error, "a node could not say that it lives");
        }
    }
}

/// A shard has ended.
struct End {
    run: usize,
    shard: Shard,
    epoch: u64,
    ended: Ended,
}

/// This process.
pub(crate) struct Node {
    id: Uuid,
    store: Store,
    lease: Duration,
    runs: Vec<Run>,
    tail: Arc<Tail>,
    beat: Beat,
    /// The last beat seen of each other node, and when it was seen first.
    seen: HashMap<Uuid, (i64, Instant)>,
    ends: (mpsc::UnboundedSender<End>, mpsc::UnboundedReceiver<End>),
    begun: bool,
    /// What was asked and is being done.
    asked: HashSet<String>,
    answering: Arc<Semaphore>,
    poke: Arc<Notify>,
}

impl Run {
    pub(crate) fn new(follower: Arc<dyn Follower>, options: Options, report: watch::Sender<Status>) -> Self {
        let (name, shadow) = (follower.name(), follower.table().is_some_and(|table| table.shadow));
        let pace = watch::Sender::new(None);
        Self {
            name,
            follower,
            options,
            report,
            pace,
            shadow,
            prepared: false,
            since: None,
            dead: None,
            shards: HashMap::new(),
        }
    }

    fn tell(&self, store: &Store, failed: Failed) {
        let stopped = failed.blame == Blame::Program;
        measure::failed(&self.name);
        tracing::warn!(projection = self.name, error = %Brief(&*failed.reason), stopped, "projection failed");
        let failed: Arc<dyn Error + Send + Sync> = failed.told().into();
        store.runs(&self.name, Some(failed.clone()), stopped);
        self.report.send_modify(|status| {
            (status.error, status.stopped) = (Some(failed), stopped);
            if stopped {
                status.state = State::Failed;
            }
        });
    }
}

impl Node {
    pub(crate) fn new(store: Store, lease: Duration, runs: Vec<Run>, poke: Arc<Notify>) -> Self {
        let now = store.as_ref().now();
        let projections = runs.iter().map(|run| run.name.clone()).collect();
        let process = format!("{}, process {}", host(), std::process::id());
        let beat = Beat { beat: 0, beat_at: now, started_at: now, process, projections };
        Self {
            id: Uuid::now_v7(),
            store,
            lease,
            runs,
            tail: Arc::new(Tail::new()),
            beat,
            seen: HashMap::new(),
            ends: mpsc::unbounded_channel(),
            begun: false,
            asked: HashSet::new(),
            answering: Arc::new(Semaphore::new(requests::ANSWERING)),
            poke,
        }
    }

    pub(crate) fn tail(&self) -> Arc<Tail> {
        self.tail.clone()
    }

    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// Runs until it is asked to stop, then finishes the batches at hand.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let queries = self.runs.iter().flat_map(|run| run.follower.query().items);
        let query = Query { items: queries.collect() };
        let (tail, store) = (self.tail.clone(), self.store.clone());
        let reader = tokio::spawn(async move { tail.follow(store, query).await });
        // In a task of its own: it lives, whatever it waits for.
        let heart = tokio::spawn(beat(self.store.clone(), self.id, self.beat.clone(), self.lease / BEATS));
        let mut beats = interval(self.lease / BEATS);
        let mut refused = false;
        loop {
            tokio::select! {
                () = asked(&mut stop) => break,
                Some(end) = self.ends.1.recv() => self.ended(end).await,
                () = self.poke.notified() => {}
                _ = beats.tick() => {}
            }
            let Err(error) = self.turn().await else {
                if std::mem::take(&mut refused) {
                    self.runs.iter().for_each(|run| self.store.runs(&run.name, None, false));
                }
                continue;
            };
            // A table of another program has the name of one of the engine's: no use in waiting, but an operator may
            // rename it.
            refused = matches!(error, StoreError::Schema(_));
            tracing::warn!(%error, refused, "a node cannot use its store");
            let error: Arc<dyn Error + Send + Sync> = Arc::new(error);
            for run in self.runs.iter().filter(|run| run.dead.is_none()) {
                self.store.runs(&run.name, Some(error.clone()), refused);
                run.report.send_modify(|status| {
                    (status.error, status.stopped) = (Some(error.clone()), refused);
                    if refused {
                        status.state = State::Failed;
                    }
                });
            }
        }
        // All at once: none waits for another's last batch.
        for running in self.runs.iter().flat_map(|run| run.shards.values()) {
            running.stop.send_replace(true);
        }
        for run in 0..self.runs.len() {
            self.halt(run).await;
            self.store.runs_no_more(&self.runs[run].name);
        }
        reader.abort();
        heart.abort();
        let _ = heart.await;
        let _ = timeout(self.lease, self.leave()).await;
    }

    /// Says that it lives, looks who else does, and takes what is its share.
    async fn turn(&mut self) -> Result<(), StoreError> {
        let store = self.store.clone();
        let store = store.as_ref();
        if !self.begun {
            for table in [NODES, control::PROJECTIONS, LETTERS, requests::REQUESTS, RESHARDS] {
                store.create(&table).await?;
                store.index(&table).await?;
            }
            control::write(store, &NODES, &self.id.to_string(), &self.beat).await?;
        }
        let nodes = self.living(store).await?;
        let states: BTreeMap<String, Row> = control::rows(store, &control::PROJECTIONS).await?;
        let reshards: BTreeMap<String, Wanted> = control::rows(store, &RESHARDS).await?;
        for run in 0..self.runs.len() {
            let name = self.runs[run].name.clone();
            if self.runs[run].shadow && states.get(&name).is_none_or(|state| state.state == "kept") {
                if !self.runs[run].shards.is_empty() {
                    self.halt(run).await;
                }
                continue;
            }
            if reshards.contains_key(&name) {
                reshard::step(store, &name, None).await?;
            }
            let peers = nodes.values().filter(|beat| beat.projections.contains(&name)).count();
            let state = states.get(&name);
            // Whoever starts a program again wants it to be tried again.
            if !self.begun && state.is_some_and(|state| state.state == "failed") {
                control::set(store, &name, "active", None).await?;
            }
            if !self.begun && self.runs[run].options.retry_at_start {
                operate::due_again(store, &name).await?;
            }
            let current = versions::current(&states, versions::model(&name)) == Some(&*name);
            self.runs[run].report.send_modify(|status| status.current = current);
            let state = state.filter(|state| self.begun || state.state != "failed");
            self.arrange(store, run, state, &nodes.keys().copied().collect(), peers.max(1)).await?;
        }
        self.begun = true;
        self.answer(store).await
    }

    /// Does what was asked of what runs here.
    async fn answer(&mut self, store: &dyn EventStore) -> Result<(), StoreError> {
        let open = requests::open(store).await?;
        self.asked.retain(|id| open.iter().any(|(open, _)| open == id));
        for (id, request) in open {
            let here =
                |run: &&Run| run.name == request.projection && run.shards.keys().any(|shard| shard.has(&request.of));
            let Some(run) = self.runs.iter().find(here) else { continue };
            if self.asked.insert(id.clone()) {
                let (store, follower, answering) = (self.store.clone(), run.follower.clone(), self.answering.clone());
                tokio::spawn(requests::answer(store, follower, id, request, answering));
            }
        }
        Ok(())
    }

    /// The nodes that have beaten within a lease, by this node's clock.
    async fn living(&mut self, store: &dyn EventStore) -> Result<BTreeMap<Uuid, Beat>, StoreError> {
        let now = Instant::now();
        let mut living = BTreeMap::new();
        let nodes: BTreeMap<String, Beat> = control::rows(store, &NODES).await?;
        let mut dead = vec![];
        for (id, beat) in nodes {
            let Ok(node) = id.parse() else { continue };
            let seen = self.seen.entry(node).or_insert((beat.beat, now));
            if seen.0 != beat.beat {
                *seen = (beat.beat, now);
            }
            match now - seen.1 {
                silent if silent < self.lease || node == self.id => {
                    living.insert(node, beat);
                }
                silent if silent > self.lease * 100 => dead.push(id),
                _ => {}
            }
        }
        self.seen.retain(|node, _| living.contains_key(node) || !dead.contains(&node.to_string()));
        if !dead.is_empty() {
            let changes = Changes { table: NODES, upserts: vec![], deletes: dead };
            // One that is frozen in the middle of a beat has its row locked: it is forgotten another time.
            if let Ok(forgotten) = timeout(self.lease, control::change(store, changes)).await {
                forgotten?;
            }
        }
        Ok(living)
    }

    /// Runs what is this node's share of a projection, and nothing else.
    async fn arrange(
        &mut self,
        store: &dyn EventStore,
        at: usize,
        state: Option<&Row>,
        living: &HashSet<Uuid>,
        peers: usize,
    ) -> Result<(), StoreError> {
        let run = &mut self.runs[at];
        // Somebody has said since that it is to be tried again.
        let again = |dead: &Timestamp| state.is_some_and(|state| state.state == "active" && state.since > *dead);
        run.dead = run.dead.filter(|dead| !again(dead));
        if run.dead.is_some() {
            return Ok(());
        }
        // A shadow that begins anew has a table to be made.
        let since = state.filter(|_| run.shadow).map(|state| state.since);
        if run.since != since {
            (run.since, run.prepared) = (since, false);
        }
        if !run.prepared {
            match prepare(store, &*run.follower, state).await {
                Ok(()) => run.prepared = true,
                Err(failed) if failed.blame == Blame::Program => {
                    self.die(at, failed).await;
                    return Ok(());
                }
                Err(failed) => {
                    run.tell(&self.store, failed);
                    return Ok(());
                }
            }
        }
        let name = run.name.clone();
        let idle = match state.map(|state| &*state.state) {
            Some("paused") => Some(State::Paused),
            Some("failed") => Some(State::Failed),
            _ => None,
        };
        if let Some(idle) = idle {
            self.halt(at).await;
            let reason = state.and_then(|state| state.reason.clone());
            let shards = store.shards(Some(&name)).await?;
            self.runs[at].report.send_modify(|status| {
                status.look(shards);
                (status.state, status.stopped) = (idle, idle == State::Failed);
                if let Some(reason) = reason.filter(|_| status.error.is_none()) {
                    status.error = Some(Arc::new(Failed::program(reason)));
                }
            });
            return Ok(());
        }
        let mut shards = store.shards(Some(&name)).await?;
        let free = |at: &Checkpoint| at.owner.is_none_or(|owner| !living.contains(&owner));
        let share = shards.len().max(1).div_ceil(peers);
        let own = shards.iter().filter(|(_, at)| at.owner == Some(self.id)).count();
        if shards.is_empty() || (own < share && shards.iter().any(|(_, at)| free(at))) {
            shards = self.claim(store, at, living, peers).await?;
        } else if own > share {
            let own = shards.iter().filter(|(_, at)| at.owner == Some(self.id));
            let given: HashSet<_> = own.skip(share).map(|(shard, _)| shard.clone()).collect();
            self.release(store, at, Some(&given)).await?;
            shards = store.shards(Some(&name)).await?;
        }
        self.look(at, &shards, state);
        let (behind, position) = {
            let status = self.runs[at].report.borrow();
            (status.lag() > 0, status.position)
        };
        let next = if behind { status::next(store, position).await? } else { None };
        self.runs[at].report.send_modify(|status| {
            status.next(next, store.now());
            measure::place(&status.name, status.position, status.lag(), status.parked);
        });
        let position = shards.iter().map(|(_, at)| at.position).min();
        if let Some(state) = state.filter(|state| state.built_at.is_none())
            && position.is_some_and(|position| position.0 >= state.target)
        {
            let run = &self.runs[at];
            versions::built(store, &*run.follower, !run.options.by_hand).await?;
        }
        Ok(())
    }

    /// Takes free shards over, up to this node's share. Gives all shards as they are then.
    async fn claim(
        &self,
        store: &dyn EventStore,
        at: usize,
        living: &HashSet<Uuid>,
        peers: usize,
    ) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        let run = &self.runs[at];
        let mut transaction = store.begin().await?;
        let mut shards = transaction.lock_projection(&run.name).await?;
        // It may have been paused or discarded, or have changed its place, since this node has looked.
        let known = control::row(&mut *transaction, &run.name).await?;
        if known.as_ref().map_or(run.shadow, |row| row.state != "active") {
            transaction.rollback().await?;
            return Ok(shards);
        }
        if shards.is_empty() {
            let parts = Shard::parts(&run.name, run.options.shards);
            let beginning = beginning();
            shards = parts.into_iter().map(|shard| (shard, beginning)).collect();
        }
        let share = shards.len().div_ceil(peers);
        let mut own = shards.iter().filter(|(_, at)| at.owner == Some(self.id)).count();
        for (_, at) in &mut shards {
            if own < share && at.owner.is_none_or(|owner| !living.contains(&owner)) {
                (at.owner, at.epoch) = (Some(self.id), at.epoch + 1);
                own += 1;
            }
        }
        transaction.put_shards(&run.name, shards.clone()).await?;
        transaction.commit().await?;
        Ok(shards)
    }

    /// Starts what is this node's and does not run, and stops what is not its own any more.
    fn look(&mut self, at: usize, shards: &[(Shard, Checkpoint)], state: Option<&Row>) {
        let run = &mut self.runs[at];
        let own: HashMap<_, _> =
            shards.iter().filter(|(_, at)| at.owner == Some(self.id)).map(|(shard, at)| (shard, at.epoch)).collect();
        run.shards.retain(|shard, running| {
            let stays = own.get(shard) == Some(&running.epoch);
            if !stays {
                running.stop.send_replace(true);
            }
            stays
        });
        let head = self.tail.end();
        run.pace.send_replace(state.and_then(|state| state.pace));
        run.report.send_modify(|status| {
            if let Some(state) = state {
                status.target = Position(state.target);
            }
            status.look(shards.to_vec());
            status.head = head.max(status.position);
            status.stopped = false;
            status.state = if status.position >= status.target { State::Active } else { State::Booting };
        });
        for (shard, epoch) in own {
            if run.shards.contains_key(shard) {
                continue;
            }
            let (stop, stopped) = watch::channel(false);
            let work = Work {
                store: self.store.clone(),
                follower: run.follower.clone(),
                tail: self.tail.clone(),
                options: run.options,
                shard: shard.clone(),
                node: self.id,
                epoch,
                report: run.report.clone(),
                poke: self.poke.clone(),
                pace: run.pace.subscribe(),
                stop: stopped,
            };
            let (ends, shard) = (self.ends.0.clone(), shard.clone());
            let end = shard.clone();
            let task = tokio::spawn(async move {
                let ended = work.run().await;
                // Nobody listens any more: then nobody needs to know.
                let _ = ends.send(End { run: at, shard: end, epoch, ended });
            });
            run.shards.insert(shard, Running { epoch, stop, task });
        }
    }

    async fn ended(&mut self, End { run: at, shard, epoch, ended }: End) {
        let run = &mut self.runs[at];
        if run.shards.get(&shard).is_some_and(|running| running.epoch == epoch) {
            run.shards.remove(&shard);
        }
        if let Ended::Failed(failed) = ended {
            self.die(at, failed).await;
        }
    }

    /// A projection cannot go on, here or elsewhere.
    async fn die(&mut self, at: usize, failed: Failed) {
        let run = &mut self.runs[at];
        let (name, reason) = (run.name.clone(), failed.to_string());
        run.tell(&self.store, failed);
        self.halt(at).await;
        match control::set(self.store.as_ref(), &name, "failed", Some(&reason)).await {
            Ok(()) => {}
            Err(error) => tracing::warn!(projection = name, %error, "that it has failed could not be written down"),
        }
        self.runs[at].dead = Some(self.store.as_ref().now());
    }

    /// Finishes the batches at hand, and lets others have its shards.
    async fn halt(&mut self, at: usize) {
        if let Err(error) = self.release(self.store.clone().as_ref(), at, None).await {
            let projection = &self.runs[at].name;
            tracing::warn!(projection, %error, "shards could not be given back: others take them when the lease is over");
        }
    }

    /// Stops shards of a projection, or all, and gives them back.
    async fn release(
        &mut self,
        store: &dyn EventStore,
        at: usize,
        only: Option<&HashSet<Shard>>,
    ) -> Result<(), StoreError> {
        let run = &mut self.runs[at];
        let given: Vec<_> = run.shards.extract_if(|shard, _| only.is_none_or(|only| only.contains(shard))).collect();
        for (_, running) in &given {
            running.stop.send_replace(true);
        }
        let mut released = HashMap::new();
        for (shard, running) in given {
            // A task that panicked has ended too.
            let _ = running.task.await;
            released.insert(shard, running.epoch);
        }
        let name = run.name.clone();
        if released.is_empty() {
            return Ok(());
        }
        // Somebody frozen may have locked them: then they are taken over when the lease is over.
        timeout(self.lease, self.give_back(store, &name, released))
            .await
            .unwrap_or_else(|late| Err(StoreError::Busy(late.into())))
    }

    async fn give_back(
        &self,
        store: &dyn EventStore,
        name: &str,
        released: HashMap<Shard, u64>,
    ) -> Result<(), StoreError> {
        let mut transaction = store.begin().await?;
        let mut shards = transaction.lock_projection(name).await?;
        for (shard, checkpoint) in &mut shards {
            if checkpoint.owner == Some(self.id) && released.get(shard) == Some(&checkpoint.epoch) {
                (checkpoint.owner, checkpoint.epoch) = (None, checkpoint.epoch + 1);
            }
        }
        transaction.put_shards(name, shards).await?;
        transaction.commit().await
    }

    /// Takes its name off the list.
    async fn leave(&self) {
        let deletes = vec![self.id.to_string()];
        let changes = Changes { table: NODES, upserts: vec![], deletes };
        if let Err(error) = control::change(self.store.as_ref(), changes).await {
            tracing::debug!(%error, "a node could not say that it leaves");
        }
    }
}

/// Comes before the first batch.
async fn prepare(store: &dyn EventStore, follower: &dyn Follower, known: Option<&Row>) -> Result<(), Failed> {
    if known.is_none() {
        begin(store, &follower.name()).await?;
    }
    follower.prepare(store).await?;
    if let Some(table) = follower.table()
        && known.is_some_and(|known| known.built_at.is_some())
    {
        // Its struct may want one that it did not want when it was built.
        store.index(&table).await?;
    }
    Ok(())
}

/// Writes down from where on it is whole: before there is a table that anybody could read.
async fn begin(store: &dyn EventStore, name: &str) -> Result<(), StoreError> {
    let head = Read { query: Query::all(), limit: Some(0), ..Read::default() };
    let head = store.read(head).await?.head;
    let mut transaction = store.begin().await?;
    let shards = transaction.lock_projection(name).await?;
    if control::row(&mut *transaction, name).await?.is_none() {
        // What was run before anything was written down about it is what it is.
        let target = if shards.is_empty() { head } else { Position(0) };
        control::put(&mut *transaction, name, &Row::new(store.now(), target)).await?;
    }
    transaction.commit().await
}

async fn asked(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody can ask any more: then it runs on.
        pending::<()>().await;
    }
}

fn host() -> String {
    std::env::var("HOSTNAME")
        .or_else(|_| std::fs::read_to_string("/etc/hostname").map(|name| name.trim().to_owned()))
        .unwrap_or_default()
}
