//! A node among others: which shards are its own, and since when.
//!
//! Each node counts its beats in a table. A node that sees another not beat for a lease, by its own clock, takes the
//! other's shards over; a lease compares no two clocks. A shard that changes hands gets a new epoch, and every write of
//! a shard first locks its row and checks the epoch. So a node that was frozen, and does not know it yet, writes
//! nothing.
//!
//! A node that cannot run a processor stands aside for the nodes that can: where another living node reads events that
//! this one does not (`reads.rs`), and where its program has failed on the processor and another node's has not. A
//! processor has failed for all when no living node can run it.
//!
//! ```text
//!   begin   waits while a node of release 0.1 lives; makes the tables; says what it reads; beats from then on
//!     |
//!     v
//!   turn    at each beat (a fifth of a lease), when woken, and when a shard has ended; for each processor:
//!     |       standing    which living nodes read most of what it was processed with (reads.rs)
//!     |       state       paused or failed: gives its shards back
//!     |       aside       another living node reads more: gives its shards back
//!     |       prepare     tables, once
//!     |       claim       free shards up to its share: shards divided by the nodes that may run it (admission.rs)
//!     |       release     shards beyond its share
//!     |       reconcile   starts a task for each shard that is its own, stops the others (shard.rs)
//!     v
//!   stop    finishes the batches at hand, gives all shards back, removes its row
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    error::Error,
    future::pending,
    sync::Arc,
    time::Duration,
};

use eventstore_core::{Changes, Checkpoint, EventStore, Position, Query, Shard, Store, StoreError, engine::LETTERS};
use serde_json::Value as Json;
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinHandle,
    time::{Instant, interval, timeout, timeout_at},
};
use uuid::Uuid;

use crate::{
    failure::{Failure, Fault, caught},
    record::{
        self, ProcessorState, Row, dead_letters,
        holds::{self, RESHARDS, Wanted},
        names,
        nodes::{Beat, NODES, beat},
        reads::{self, EVENT_SETS, Sets, Standing},
        requests,
    },
    run::{
        admission::{Admitted, Cause, How, admit, stored_failure},
        answer::{ANSWERING, answer},
        lease,
        local::{Cannot, Errand, LocalProcessor, LocalShard, prepare},
        metrics,
        shard::{Ended, GRACE, ShardRunner},
        tail::Tail,
    },
    status::{self, State},
};

/// How many beats a node makes in a lease.
const BEATS: u32 = 5;
/// How long a turn waits for code of a processor that runs in a task of its own. Most of it ends within that; for the
/// rest, a later turn looks.
const MOMENT: Duration = Duration::from_millis(50);
/// How long a node waits for a batch at hand, from when it asked the shard to stop. Longer than the [`GRACE`] of shards.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Sent by the task of a shard when it ends.
struct End {
    run: usize,
    shard: Shard,
    epoch: u64,
    ended: Ended,
}

/// This process, as a node.
pub(crate) struct Node {
    id: Uuid,
    store: Store,
    lease: Duration,
    runs: Vec<LocalProcessor>,
    tail: Arc<Tail>,
    beat: Beat,
    /// The last beat seen of each node, and when it was first seen.
    seen: HashMap<Uuid, (i64, Instant)>,
    ends: (mpsc::UnboundedSender<End>, mpsc::UnboundedReceiver<End>),
    /// The sets of events that the fingerprints in beats and rows stand for.
    sets: Sets,
    /// The processors that its beats say it cannot run, and why.
    cannot: watch::Sender<BTreeMap<String, String>>,
    /// The task that beats, once the node has begun.
    heart: Option<JoinHandle<()>>,
    /// The task that reads the log.
    reader: Option<JoinHandle<()>>,
    /// Tasks that were asked to stop and were not waited for. Their shards have new epochs, so they can write nothing.
    left_behind: Vec<JoinHandle<()>>,
    begun: bool,
    /// Whether it has given its shards back.
    stopped: bool,
    /// The requests that are being carried out.
    asked: HashSet<String>,
    answering: Arc<Semaphore>,
    wake: Arc<Notify>,
}

impl Node {
    pub fn new(store: Store, lease: Duration, runs: Vec<LocalProcessor>, wake: Arc<Notify>) -> Self {
        let now = store.as_ref().now();
        let projections = runs.iter().map(|run| run.name.clone()).collect();
        let reads = runs.iter().map(|run| (run.name.clone(), Json::from(&*run.fingerprint)));
        let reads = Some(Json::Object(reads.collect()));
        let process = format!("{}, process {}", host(), std::process::id());
        let cannot = BTreeMap::new();
        let beat = Beat { beat: 0, beat_at: now, started_at: now, process, projections, reads, cannot };
        Self {
            id: Uuid::now_v7(),
            store,
            lease,
            runs,
            tail: Arc::new(Tail::new()),
            beat,
            seen: HashMap::new(),
            ends: mpsc::unbounded_channel(),
            sets: Sets::default(),
            cannot: watch::Sender::default(),
            heart: None,
            reader: None,
            left_behind: vec![],
            begun: false,
            stopped: false,
            asked: HashSet::new(),
            answering: Arc::new(Semaphore::new(ANSWERING)),
            wake,
        }
    }

    pub(crate) fn tail(&self) -> Arc<Tail> {
        self.tail.clone()
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Runs until asked to stop, then finishes the batches at hand and gives the shards back.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        // A processor without a query is not prepared, and so never runs.
        let queries = self.runs.iter().filter_map(|run| run.query.clone().ok()).flat_map(|query| query.items);
        let query = Query { items: queries.collect() };
        let (tail, store) = (self.tail.clone(), self.store.clone());
        self.reader = Some(tokio::spawn(async move { tail.follow(store, query).await }));
        let mut beats = interval(self.lease / BEATS);
        let mut refused = false;
        loop {
            tokio::select! {
                () = asked(&mut stop) => break,
                Some(end) = self.ends.1.recv() => self.ended(end).await,
                () = self.wake.notified() => {}
                _ = beats.tick() => {}
            }
            let Err(error) = self.turn().await else {
                if std::mem::take(&mut refused) {
                    self.runs.iter().for_each(|run| self.store.mark_running(&run.name, None, false));
                }
                continue;
            };
            // A table of another program has the name of an engine's table. Retrying does not help, but an operator may
            // rename the table.
            refused = matches!(error, StoreError::Schema(_));
            tracing::warn!(%error, refused, "a node cannot use its store");
            let error: Arc<dyn Error + Send + Sync> = Arc::new(error);
            for run in self.runs.iter().filter(|run| run.cannot.is_none()) {
                self.store.mark_running(&run.name, Some(error.clone()), refused);
                run.report.send_modify(|status| {
                    (status.error, status.stopped) = (Some(error.clone()), refused);
                    if refused {
                        status.state = State::Failed;
                    }
                });
            }
        }
        // Stop all shards first, so that their last batches run at the same time.
        for running in self.runs.iter_mut().flat_map(|run| run.shards.values_mut()) {
            running.ask();
        }
        for run in 0..self.runs.len() {
            let (preparing, building) = (self.runs[run].preparing.take(), self.runs[run].building.take());
            if let Some(errand) = preparing {
                errand.end(GRACE).await;
            }
            if let Some(errand) = building {
                errand.end(GRACE).await;
            }
            self.halt_within(run, None).await;
            self.store.mark_stopped(&self.runs[run].name);
        }
        self.stopped = true;
        for task in self.left_behind.iter().chain(&self.reader) {
            task.abort();
        }
        if let Some(heart) = self.heart.take() {
            heart.abort();
            let _ = heart.await;
        }
        let _ = timeout(self.lease, self.leave()).await;
    }

    /// One turn: reads which nodes live, and has this node run its share of each processor.
    async fn turn(&mut self) -> Result<(), StoreError> {
        let store = self.store.clone();
        let store = store.as_ref();
        let mut nodes = self.living(store).await?;
        if !self.begun {
            if let Some(old) = nodes.values().find(|beat| beat.reads.is_none()) {
                self.wait_for_old_release(&old.process);
                return Ok(());
            }
            for table in [record::PROCESSORS, LETTERS, requests::REQUESTS, RESHARDS, EVENT_SETS] {
                store.create(&table).await?;
                store.index(&table).await?;
            }
            reads::publish(store, self.runs.iter().map(|run| run.reads.clone()).collect()).await?;
            record::write(store, &NODES, &self.id.to_string(), &self.beat).await?;
            // In a task of its own, so that the node beats whatever this loop waits for.
            let (beat_now, cannot) = (self.beat.clone(), self.cannot.subscribe());
            let beating = beat(self.store.clone(), self.id, beat_now, cannot, self.lease / BEATS);
            self.heart.get_or_insert_with(|| tokio::spawn(beating));
            nodes.insert(self.id, self.beat.clone());
            self.begun = true;
        }
        self.left_behind.retain(|task| !task.is_finished());
        let states: BTreeMap<String, Row> = record::rows(store, &record::PROCESSORS).await?;
        let reshards: BTreeMap<String, Wanted> = record::rows(store, &RESHARDS).await?;
        let mut fingerprints = vec![];
        for LocalProcessor { name, .. } in &self.runs {
            fingerprints.extend(states.get(name).and_then(|row| row.reads.clone()));
            fingerprints.extend(nodes.values().filter_map(|beat| beat.reads(name).map(str::to_owned)));
        }
        self.sets.learn(store, fingerprints).await?;
        let living = nodes.keys().copied().collect();
        for run in 0..self.runs.len() {
            let name = self.runs[run].name.clone();
            if self.runs[run].shadow && states.get(&name).is_none_or(|state| state.state == ProcessorState::Kept) {
                if !self.runs[run].shards.is_empty() {
                    self.halt(run).await;
                }
                // Whatever begins next has a table of its own.
                let run = &mut self.runs[run];
                (run.since, run.prepared, run.preparing, run.building) = (None, false, None, None);
                continue;
            }
            if reshards.contains_key(&name) {
                let stepped = holds::step(store, &name, None).await.map(drop);
                self.or_report(run, stepped)?;
            }
            let mut state = states.get(&name).cloned();
            let others = nodes.iter().filter(|(node, beat)| **node != self.id && beat.can_run(&name));
            let others: Vec<_> =
                others.filter_map(|(node, beat)| Some((*node, self.sets.get(beat.reads(&name)?)?))).collect();
            let before = state.as_ref().and_then(|row| self.sets.get(row.reads.as_deref()?));
            let standing = reads::standing(self.id, &self.runs[run].reads, before, &others);
            let able = nodes.iter().filter(|(node, beat)| **node != self.id && beat.can_run(&name));
            self.runs[run].others = able.map(|(node, _)| *node).collect();
            // A failed processor is tried again when a program starts, and once the cause of its failure is over.
            let is_over = |row: &Row| Cause::of(row).is_some_and(|cause| cause.is_over(&self.runs[run].reads));
            let again = |row: &&Row| row.state == ProcessorState::Failed && (!self.runs[run].started || is_over(row));
            if let Some(failed) = state.as_ref().filter(again)
                && standing.lacks.is_empty()
            {
                // An operator may have paused it since the rows were read.
                match go_on(store, &name, failed).await {
                    Ok(row) => state = row,
                    failed => self.or_report(run, failed.map(drop))?,
                }
            }
            self.runs[run].started = true;
            if self.runs[run].retries {
                let due = dead_letters::due_again(store, &name).await;
                self.runs[run].retries = due.is_err();
                self.or_report(run, due)?;
            }
            let current = names::current(&states, names::model(&name)) == Some(&*name);
            self.runs[run].report.send_modify(|status| status.current = current);
            let arranged = self.arrange(store, run, state, &living, standing).await;
            self.or_report(run, arranged)?;
        }
        let cannot = self.runs.iter().filter_map(|run| Some((run.name.clone(), run.cannot.as_ref()?.reason.clone())));
        let cannot: BTreeMap<_, _> = cannot.collect();
        self.cannot.send_if_modified(|said| {
            let news = *said != cannot;
            *said = cannot;
            news
        });
        self.answer(store).await
    }

    /// Reports an error at the processor that it came of, so that the turn goes on with the others. Returns an error
    /// that they would find as well.
    fn or_report(&self, at: usize, done: Result<(), StoreError>) -> Result<(), StoreError> {
        match done {
            Err(error) if !matches!(error, StoreError::Unavailable(_) | StoreError::Schema(_)) => {
                self.runs[at].report_failure(&self.store, error.into());
                Ok(())
            }
            done => done,
        }
    }

    /// Reports that nothing runs on this node while a node of release 0.1 lives.
    fn wait_for_old_release(&self, process: &str) {
        for run in &self.runs {
            let failed: Arc<dyn Error + Send + Sync> = Arc::new(StoreError::OldRelease { process: process.into() });
            self.store.mark_running(&run.name, Some(failed.clone()), true);
            run.report.send_modify(|status| {
                (status.state, status.stopped, status.error) = (State::Failed, true, Some(failed));
            });
        }
    }

    /// Starts the requests for shards that this node runs.
    async fn answer(&mut self, store: &dyn EventStore) -> Result<(), StoreError> {
        let open = requests::open(store).await?;
        self.asked.retain(|id| open.iter().any(|(open, _)| open == id));
        for (id, request) in open {
            let here = |run: &&LocalProcessor| {
                run.name == request.projection && run.shards.keys().any(|shard| shard.has(&request.of))
            };
            let Some(run) = self.runs.iter().find(here) else { continue };
            if self.asked.insert(id.clone()) {
                let (store, processor, answering) = (self.store.clone(), run.processor.clone(), self.answering.clone());
                tokio::spawn(answer(store, processor, id, request, answering));
            }
        }
        Ok(())
    }

    /// Returns the nodes that have beaten within a lease, by this node's clock. Removes the rows of nodes that have
    /// been silent for 100 leases.
    async fn living(&mut self, store: &dyn EventStore) -> Result<BTreeMap<Uuid, Beat>, StoreError> {
        let now = Instant::now();
        let mut living = BTreeMap::new();
        if !self.begun {
            store.create(&NODES).await?;
        }
        let nodes: BTreeMap<String, Beat> = record::rows(store, &NODES).await?;
        let mut dead = vec![];
        for (id, beat) in nodes {
            let Ok(node) = id.parse() else { continue };
            // A node of release 0.1 may have stopped long ago and left its row. The time of its last beat tells, by its
            // own clock.
            let old = beat.reads.is_none() && beat.beat_at + self.lease < store.now();
            let first = now.checked_sub(self.lease).filter(|_| old).unwrap_or(now);
            let seen = self.seen.entry(node).or_insert((beat.beat, first));
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
            // A node that is frozen during a beat has its row locked; the row is removed another time.
            if let Ok(forgotten) = timeout(self.lease, record::change(store, changes)).await {
                forgotten?;
            }
        }
        Ok(living)
    }

    /// Runs this node's share of a processor, and no more.
    async fn arrange(
        &mut self,
        store: &dyn EventStore,
        at: usize,
        state: Option<Row>,
        living: &HashSet<Uuid>,
        standing: Standing,
    ) -> Result<(), StoreError> {
        let run = &mut self.runs[at];
        let name = run.name.clone();
        let active = state.as_ref().is_none_or(|row| row.state == ProcessorState::Active);
        run.seen = state.as_ref().map(|row| row.since);
        if let Some(cannot) = &mut run.cannot {
            cannot.stopped |= !active;
            // It was made active again since it failed here.
            if active && (cannot.stopped || cannot.seen != run.seen) {
                run.cannot = None;
            }
        }
        if let Some(cannot) = run.cannot.as_ref().filter(|_| active) {
            // If no other node can run it, the processor has failed for all.
            if run.others.is_empty() {
                let (reason, newer) = (cannot.reason.clone(), cannot.newer.clone());
                self.fail(store, at, &reason, newer.map(Cause::Newer)).await?;
            }
            return Ok(());
        }
        if let Some(state) = state.as_ref().filter(|_| !active) {
            let reason = stored_failure(&name, state);
            self.runs[at].building = None;
            self.halt(at).await;
            let idle = State::of(Some(state), true, true);
            let shards = store.shards(Some(&name)).await?;
            self.runs[at].report.send_modify(|status| {
                status.set_shards(shards);
                (status.state, status.stopped) = (idle, idle == State::Failed);
                if let Some(reason) = reason.filter(|_| status.error.is_none()) {
                    status.error = Some(reason);
                }
            });
            return Ok(());
        }
        if !standing.lacks.is_empty() {
            let events = standing.lacks.to_string();
            if !std::mem::replace(&mut run.aside, true) {
                tracing::info!(projection = name, events, "another node reads more: this one stands aside");
            }
            self.halt(at).await;
            let failed = StoreError::Newer { projection: name.clone(), events }.into();
            self.runs[at].stand_aside(&self.store, failed, store.shards(Some(&name)).await?);
            return Ok(());
        }
        if std::mem::take(&mut run.aside) {
            self.store.mark_running(&name, None, false);
            run.report.send_modify(|status| status.error = None);
        }
        // A shadow that begins again needs its table made again.
        let since = state.as_ref().filter(|_| run.shadow).map(|state| state.since);
        if run.since != since {
            (run.since, run.prepared, run.preparing, run.building) = (since, false, None, None);
        }
        let state = match state {
            None if !run.prepared => Some(record::begin(store, &name).await?),
            state => state,
        };
        let state = state.as_ref();
        run.seen = state.map(|row| row.since);
        if !run.prepared {
            match self.prepared(at, state).await {
                None => return Ok(()),
                Some(Ok(())) => self.runs[at].prepared = true,
                Some(Err(failed)) => {
                    self.failed(at, failed).await;
                    return Ok(());
                }
            }
        }
        let mut shards = store.shards(Some(&name)).await?;
        let share = lease::share(shards.len(), standing.runners);
        let own = lease::owned(&shards, self.id);
        let read_as_here = |row: &Row| row.reads.as_ref() == Some(&self.runs[at].fingerprint) && row.word.is_none();
        let anew = shards.is_empty() || !state.is_some_and(read_as_here);
        if anew || (own < share && shards.iter().any(|(_, at)| lease::is_free(at, living))) {
            match self.claim(store, at, living, &standing).await {
                Ok(Some(claimed)) => shards = claimed,
                Ok(None) => return Ok(()),
                Err(failed) => {
                    self.failed(at, failed).await;
                    return Ok(());
                }
            }
        } else if own > share {
            let given = lease::surplus(&shards, self.id, share);
            self.release(store, at, Some(&given), Some(PATIENCE)).await?;
            shards = store.shards(Some(&name)).await?;
        }
        self.reconcile(at, &shards, state);
        let (behind, position) = {
            let status = self.runs[at].report.borrow();
            (status.lag() > 0, status.position)
        };
        let next = if behind { status::next(store, position).await? } else { None };
        self.runs[at].report.send_modify(|status| {
            status.set_next(next, store.now());
            metrics::progress(&status.name, status.position, status.lag(), status.parked);
        });
        let position = shards.iter().map(|(_, at)| at.position).min();
        let unbuilt = state.is_some_and(|state| {
            state.built_at.is_none() && position.is_some_and(|position| position.0 >= state.target)
        });
        match self.built(at, unbuilt).await {
            Some(Ok(Some(parked))) => self.runs[at].is_not_promoted(parked),
            Some(Err(failed)) => self.failed(at, failed).await,
            None | Some(Ok(None)) => {}
        }
        Ok(())
    }

    /// Has a processor prepared in a task of its own, and returns what has come of it; `None` while the task runs.
    async fn prepared(&mut self, at: usize, state: Option<&Row>) -> Option<Result<(), Failure>> {
        let (store, wake) = (self.store.clone(), self.wake.clone());
        let run = &mut self.runs[at];
        if let Err(reason) = &run.query {
            return Some(Err(Failure::program(reason.clone())));
        }
        let (processor, built) = (run.processor.clone(), state.is_some_and(|row| row.built_at.is_some()));
        let is_new = run.preparing.is_none();
        let preparing = run.preparing.get_or_insert_with(|| {
            Errand::begin(async move {
                let start = Instant::now();
                let prepared = caught(prepare(store.as_ref(), &*processor, built)).await;
                if start.elapsed() >= MOMENT {
                    // The turn that began it does not wait any more: another one goes on.
                    wake.notify_one();
                }
                prepared
            })
        });
        let done = preparing.within(if is_new { MOMENT } else { Duration::ZERO }).await?;
        run.preparing = None;
        Some(done)
    }

    /// Has done in a task of its own what is done once a processor is built (`unbuilt`: that is not done yet), and
    /// returns what has come of it; `None` while the task runs, and if there is none.
    async fn built(&mut self, at: usize, unbuilt: bool) -> Option<Result<Option<StoreError>, Failure>> {
        let store = self.store.clone();
        let run = &mut self.runs[at];
        let is_new = run.building.is_none();
        if is_new {
            let (processor, promote) = (run.processor.clone(), !run.options.by_hand);
            let built = async move { caught(processor.built(store.as_ref(), promote)).await };
            run.building = unbuilt.then(|| Errand::begin(built));
        }
        let done = run.building.as_mut()?.within(if is_new { MOMENT } else { Duration::ZERO }).await?;
        run.building = None;
        Some(done)
    }

    /// Gives a processor up on this node, if only a change of its program helps. Else reports the failure, and a later
    /// turn tries again.
    async fn failed(&mut self, at: usize, failed: Failure) {
        match failed.fault {
            Fault::Program => self.give_up(at, failed).await,
            _ => self.runs[at].report_failure(&self.store, failed),
        }
    }

    /// Takes free shards up to this node's share, if its program may go on with them. Returns all shards as they are
    /// then; `None` if the program may not go on, or if the processor has failed for all.
    async fn claim(
        &mut self,
        store: &dyn EventStore,
        at: usize,
        living: &HashSet<Uuid>,
        standing: &Standing,
    ) -> Result<Option<Vec<(Shard, Checkpoint)>>, Failure> {
        let run = &self.runs[at];
        let mut transaction = store.begin().await?;
        let mut shards = transaction.lock_projection(&run.name).await?;
        // The processor may have been paused, discarded or begun again since this node read its row.
        let known = record::row(&mut *transaction, &run.name).await?;
        let begun_again = |row: &Row| run.shadow && Some(row.since) != run.since;
        if known.as_ref().map_or(run.shadow, |row| row.state != ProcessorState::Active || begun_again(row)) {
            transaction.rollback().await?;
            return Ok(Some(shards));
        }
        let mut known = known.unwrap_or_else(|| Row::new(store.now(), Position(0)));
        let instances = run.processor.instances().map(|instances| instances.stored());
        let told = known.instances == instances;
        known.instances = instances;
        let how = How { start: run.options.start, shards: run.options.shards, shrinks: standing.shrinks };
        match admit(&mut *transaction, &*run.processor, &mut known, &mut shards, how).await? {
            Admitted::AsItWas if told => {}
            Admitted::AsItWas | Admitted::Anew => record::put(&mut *transaction, &run.name, &known).await?,
            Admitted::Lacks(events) => {
                // A node that reads more has taken the processor over since this one looked.
                transaction.rollback().await?;
                let failed = StoreError::Newer { projection: run.name.clone(), events: events.to_string() }.into();
                run.stand_aside(&self.store, failed, shards);
                self.halt(at).await;
                return Ok(None);
            }
            Admitted::Failed(cause) => {
                transaction.rollback().await?;
                let failed = Failure::from(cause.error(&run.name));
                let reason = cause.reason(&failed);
                if self.fail(store, at, &reason, Some(cause)).await? {
                    self.runs[at].report_failure(&self.store, failed);
                }
                return Ok(None);
            }
        }
        let share = lease::share(shards.len(), standing.runners);
        lease::take_free(&mut shards, self.id, share, living);
        transaction.put_shards(&run.name, shards.clone()).await?;
        transaction.commit().await?;
        Ok(Some(shards))
    }

    /// Starts a task for each shard that is this node's, and stops the tasks of shards that are not.
    fn reconcile(&mut self, at: usize, shards: &[(Shard, Checkpoint)], state: Option<&Row>) {
        let run = &mut self.runs[at];
        let own: HashMap<_, _> =
            shards.iter().filter(|(_, at)| at.owner == Some(self.id)).map(|(shard, at)| (shard, at.epoch)).collect();
        run.shards.retain(|shard, running| {
            let stays = own.get(shard) == Some(&running.epoch);
            if !stays {
                running.ask();
            }
            stays
        });
        let head = self.tail.end();
        run.pace.send_replace(state.and_then(|state| state.pace));
        run.report.send_modify(|status| {
            if let Some(state) = state {
                status.target = Position(state.target);
            }
            status.set_shards(shards.to_vec());
            status.head = head.max(status.position);
            status.stopped = false;
            status.state = if status.position >= status.target { State::Active } else { State::Booting };
        });
        for (shard, epoch) in own {
            if run.shards.contains_key(shard) {
                continue;
            }
            let (stop, stopped) = watch::channel(false);
            let work = ShardRunner {
                store: self.store.clone(),
                processor: run.processor.clone(),
                tail: self.tail.clone(),
                options: run.options,
                shard: shard.clone(),
                node: self.id,
                epoch,
                report: run.report.clone(),
                wake_node: self.wake.clone(),
                pace: run.pace.subscribe(),
                stop: stopped,
                most: None,
            };
            let (ends, shard) = (self.ends.0.clone(), shard.clone());
            let end = shard.clone();
            let task = tokio::spawn(async move {
                let ended = work.run().await;
                // An error means that the node has ended and needs no message.
                let _ = ends.send(End { run: at, shard: end, epoch, ended });
            });
            run.shards.insert(shard, LocalShard { epoch, stop, asked: None, task });
        }
    }

    async fn ended(&mut self, End { run: at, shard, epoch, ended }: End) {
        let run = &mut self.runs[at];
        if run.shards.get(&shard).is_none_or(|running| running.epoch != epoch) {
            // It was given back before it ended: what it says is over.
            return;
        }
        run.shards.remove(&shard);
        if let Ended::Failed(failed) = ended {
            self.give_up(at, failed).await;
        }
    }

    /// Gives a processor up on this node. The next turn finds out whether another node can run it.
    async fn give_up(&mut self, at: usize, failed: Failure) {
        let run = &mut self.runs[at];
        let newer = failed.newer();
        let reason = match &newer {
            Some(_) => format!("newer than every program that runs: {failed}"),
            None => failed.to_string(),
        };
        run.cannot = Some(Cannot { seen: run.seen, stopped: false, reason, newer });
        if !run.others.is_empty() {
            tracing::warn!(projection = run.name, error = %failed.reason, "this node stands aside: another one may");
            metrics::failed(&run.name);
            let shards = run.report.borrow().shards.clone();
            run.stand_aside(&self.store, failed, shards);
        } else {
            run.report_failure(&self.store, failed);
        }
        self.halt(at).await;
        // The task that failed is not among the running ones any more; give its shard back, too.
        let (store, name) = (self.store.clone(), self.runs[at].name.clone());
        match timeout(self.lease, self.give_back(store.as_ref(), &name, None)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(projection = name, %error, "shards could not be given back"),
            Err(late) => tracing::warn!(projection = name, error = %late, "shards could not be given back"),
        }
    }

    /// Stores that no node can run a processor. Returns `false`, having stored nothing, if the nodes that may run it
    /// have changed meanwhile, or if it is not active any more.
    async fn fail(
        &mut self,
        store: &dyn EventStore,
        at: usize,
        reason: &str,
        cause: Option<Cause>,
    ) -> Result<bool, StoreError> {
        self.halt(at).await;
        let name = self.runs[at].name.clone();
        // A node that begins writes its beat before it has anything tried again. If its request to try again was seen,
        // its beat is seen, too.
        let nodes = self.living(store).await?;
        let able = nodes.iter().filter(|(node, beat)| **node != self.id && beat.can_run(&name)).map(|(node, _)| *node);
        if able.collect::<BTreeSet<_>>() != self.runs[at].others {
            return Ok(false);
        }
        let (now, cause) = (store.now(), cause.and_then(|cause| serde_json::to_value(cause).ok()));
        let change = |row: &mut Row, _: &[(Shard, Checkpoint)]| {
            let active = row.state == ProcessorState::Active;
            if active {
                record::turn_to(row, ProcessorState::Failed, Some(reason), now);
                row.cause = cause;
            }
            active
        };
        if !record::update_if(store, &name, change).await?.is_some_and(|(_, written)| written) {
            return Ok(false);
        }
        if let Some(cannot) = &mut self.runs[at].cannot {
            cannot.stopped = true;
        }
        self.runs[at].report.send_modify(|status| (status.state, status.stopped) = (State::Failed, true));
        Ok(true)
    }

    /// Finishes the batches at hand, if they take no longer than [`PATIENCE`], and gives all shards of a processor back.
    async fn halt(&mut self, at: usize) {
        self.halt_within(at, Some(PATIENCE)).await;
    }

    async fn halt_within(&mut self, at: usize, patience: Option<Duration>) {
        if let Err(error) = self.release(self.store.clone().as_ref(), at, None, patience).await {
            let projection = &self.runs[at].name;
            tracing::warn!(projection, %error, "shards could not be given back: others take them when the lease is over");
        }
    }

    /// Stops shards of a processor, or all that run, and gives them back. A task that runs for longer than `patience`
    /// after it was asked to stop is left behind: the shard gets a new epoch, so the task can write nothing more.
    async fn release(
        &mut self,
        store: &dyn EventStore,
        at: usize,
        only: Option<&HashSet<Shard>>,
        patience: Option<Duration>,
    ) -> Result<(), StoreError> {
        let run = &mut self.runs[at];
        let given = run.shards.extract_if(|shard, _| only.is_none_or(|only| only.contains(shard)));
        let mut given: Vec<_> = given.collect();
        for (_, running) in &mut given {
            running.ask();
        }
        let (mut released, mut hang) = (HashMap::new(), vec![]);
        for (shard, mut running) in given {
            released.insert(shard.clone(), running.epoch);
            let until = patience.map(|patience| running.ask() + patience);
            // A task that panicked has ended, too.
            let ended = async { drop((&mut running.task).await) };
            match until {
                None => ended.await,
                Some(until) if timeout_at(until, ended).await.is_ok() => {}
                Some(_) => hang.push((shard, running)),
            }
        }
        let name = run.name.clone();
        if released.is_empty() {
            return Ok(());
        }
        // A frozen node may have locked the shards; others then take them when the lease is over.
        let given = timeout(self.lease, self.give_back(store, &name, Some(released)))
            .await
            .unwrap_or_else(|late| Err(StoreError::Busy(late.into())));
        for (shard, running) in hang {
            tracing::warn!(projection = %shard, "code of a processor does not end: its shard is given to others");
            match given {
                Ok(()) => self.left_behind.push(running.task),
                // It has the shard at the same epoch still, so no other task may begin with the shard.
                Err(_) => drop(self.runs[at].shards.insert(shard, running)),
            }
        }
        given
    }

    /// Gives up the ownership of shards that this node had at these epochs, or of all it owns.
    async fn give_back(
        &self,
        store: &dyn EventStore,
        name: &str,
        released: Option<HashMap<Shard, u64>>,
    ) -> Result<(), StoreError> {
        let mut transaction = store.begin().await?;
        let mut shards = transaction.lock_projection(name).await?;
        lease::give_back(&mut shards, self.id, released.as_ref());
        transaction.put_shards(name, shards).await?;
        transaction.commit().await
    }

    /// Removes the row of this node.
    async fn leave(&self) {
        let deletes = vec![self.id.to_string()];
        let changes = Changes { table: NODES, upserts: vec![], deletes };
        if let Err(error) = record::change(self.store.as_ref(), changes).await {
            tracing::debug!(%error, "a node could not say that it leaves");
        }
    }
}

/// A node that ends in another way than by [`Node::run`] does not beat on, and its shards stop: others take them when
/// the lease is over.
impl Drop for Node {
    fn drop(&mut self) {
        for task in self.left_behind.iter().chain(&self.heart).chain(&self.reader) {
            task.abort();
        }
        for running in self.runs.iter_mut().flat_map(|run| run.shards.values_mut()) {
            running.ask();
        }
        if self.stopped {
            return;
        }
        for run in &mut self.runs {
            run.others.clear();
            run.report_failure(&self.store, Failure::program("its node has ended"));
        }
    }
}

/// Makes a failed processor active again, if it is failed still. Returns its row.
async fn go_on(store: &dyn EventStore, name: &str, failed: &Row) -> Result<Option<Row>, StoreError> {
    let now = store.now();
    let change = |row: &mut Row, _: &[(Shard, Checkpoint)]| {
        let same = (&row.state, row.since) == (&failed.state, failed.since);
        if same {
            record::turn_to(row, ProcessorState::Active, None, now);
        }
        same
    };
    Ok(record::update_if(store, name, change).await?.map(|(row, _)| row))
}

async fn asked(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // The sender is gone, so nothing can ask to stop.
        pending::<()>().await;
    }
}

fn host() -> String {
    std::env::var("HOSTNAME")
        .or_else(|_| std::fs::read_to_string("/etc/hostname").map(|name| name.trim().to_owned()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use async_trait::async_trait;
    use eventstore_core::{MemoryStore, Transaction};

    use super::*;
    use crate::{
        Processors,
        record::{PROCESSORS, queue::Queue, reads::Reads},
        run::{
            options::Options,
            page::DecodedPage,
            processor::{Part, Processor, Remembered},
        },
        status::Status,
    };

    /// Does nothing with no event.
    struct Nothing;

    #[async_trait]
    impl Processor for Nothing {
        fn name(&self) -> String {
            "nothing".into()
        }

        fn query(&self) -> Query {
            Query::default()
        }

        fn reads(&self) -> Reads {
            Reads::default()
        }

        async fn prepare(&self, _: &dyn EventStore) -> Result<(), Failure> {
            Ok(())
        }

        fn decode(&self, _: &DecodedPage, _: Range<usize>) {}

        async fn process(
            &self,
            _: &mut dyn Transaction,
            _: &Part<'_>,
            _: Option<&mut Remembered>,
        ) -> Result<Vec<(Queue, usize)>, Failure> {
            Ok(vec![])
        }
    }

    #[tokio::test]
    async fn what_is_paused_stays_paused_whatever_a_node_has_found_before() -> Result<(), StoreError> {
        let store = Store::from(MemoryStore::new());
        let report = watch::Sender::new(Status::new("nothing".into()));
        let run = LocalProcessor::new(Arc::new(Nothing), Options::default(), report);
        let mut node = Node::new(store.clone(), Duration::from_secs(3), vec![run], Arc::default());
        let operator = Processors::new(&store);
        let row = async || Ok::<_, StoreError>(record::known(store.as_ref(), "nothing").await?.unwrap());
        store.as_ref().create(&PROCESSORS).await?;
        record::begin(store.as_ref(), "nothing").await?;

        // It fails, and an operator pauses it before the node stores that.
        operator.pause("nothing").await?;
        assert!(!node.fail(store.as_ref(), 0, "why", None).await?);
        assert_eq!(row().await?.state, ProcessorState::Paused);
        operator.resume("nothing").await?;
        assert!(node.fail(store.as_ref(), 0, "why", None).await?);

        // A node that starts finds that it has failed, and an operator pauses it before the node tries again.
        let failed = row().await?;
        assert_eq!((&failed.state, failed.reason.as_deref()), (&ProcessorState::Failed, Some("why")));
        operator.pause("nothing").await?;
        let found = go_on(store.as_ref(), "nothing", &failed).await?;
        assert_eq!(found.map(|row| row.state), Some(ProcessorState::Paused));
        assert_eq!(row().await?.state, ProcessorState::Paused);
        Ok(())
    }
}
