//! The runner: declares what follows the log, starts it, and reports how far it has come.

use std::{collections::HashSet, ops::Deref, sync::Arc, time::Duration};

use eventstore_core::{DeadLetter, Invalid, Position, Shard, StartFrom, Store, StoreError, engine::check_name};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

use crate::{
    operate::processors::Processors,
    record::dead_letters,
    run::{local::LocalProcessor, node::Node, options::Options, parked::Parked, processor::Processor, tail::Tail},
    status::{State, Status},
    subscription::{Delivered, Subscription},
};

/// How long a node may be silent before others take its shards.
const LEASE: Duration = Duration::from_secs(3);

/// How long [`Running::until`] waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Declares which processors this process runs; [`start`](Runner::start) runs them.
///
/// Any number of processes may run the same processors: they share the work, and each event is processed once. When the
/// [lease](Runner::lease) of a process that crashed or is frozen is over, others take its shards, and it can write
/// nothing from then on.
///
/// ```
/// # use eventstore::prelude::*;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Event, Clone)]
/// # enum AccountEvent { Deposited { amount: i64 } }
/// # #[derive(Aggregate)]
/// # struct Account;
/// # impl Evolve for Account { type Event = AccountEvent; fn evolve(&mut self, _: AccountEvent) {} }
/// # #[derive(Clone)]
/// # struct Deposit { amount: i64 }
/// # impl Decide<Deposit> for Account {
/// #     fn decide(&self, Deposit { amount }: Deposit) -> Decision<Self> { Ok(vec![AccountEvent::Deposited { amount }]) }
/// # }
/// # #[derive(ReadModel, Serialize, Deserialize, Default)]
/// # struct Balance { balance: i64 }
/// # impl Project for Balance {
/// #     type Event = AccountEvent;
/// #     fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
/// #         let AccountEvent::Deposited { amount } = event.data;
/// #         row.balance += amount;
/// #     }
/// # }
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = eventstore::connect("memory:").await?;
/// # let ann = Id::<Account>::new();
/// let runner = Runner::new(&store).read_model::<Balance>().start();
/// let deposited = store.execute(&ann, Deposit { amount: 100 }).await?;
/// runner.until(deposited.position).await?; // all that run have seen it
/// assert_eq!(store.read_model::<Balance>().get(&ann).await?.map(|row| row.balance), Some(100));
/// runner.stop().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing runs until it is started"]
pub struct Runner {
    store: Store,
    processors: Vec<(Arc<dyn Processor>, Options)>,
    lease: Duration,
    /// The first setting that was made before any processor was named.
    misplaced: Option<&'static str>,
}

impl Runner {
    /// Returns a runner without processors.
    pub fn new(store: &Store) -> Self {
        Self { store: store.beneath(), processors: vec![], lease: LEASE, misplaced: None }
    }

    /// Runs a subscription, which hands events to something outside of the store. On a log that has events already, say
    /// where it begins: [`from_now`](Self::from_now), [`from_beginning`](Self::from_beginning) or [`from`](Self::from).
    pub fn subscription<S: Subscription>(self, subscription: S) -> Self {
        self.with(Delivered(subscription))
    }

    /// Returns the store that the processors run on: without what is kept up to date with each append.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Runs a processor. Read models, projections in SQL and subscriptions have methods of their own; this one is for
    /// other kinds.
    pub fn with(mut self, processor: impl Processor + 'static) -> Self {
        self.processors.push((Arc::new(processor), Options::default()));
        self
    }

    /// For a kind of processor that is declared in several calls: names a processor again, so that the settings that
    /// follow are for it, and returns it; `None` if there is none of the name.
    #[doc(hidden)]
    pub fn again(&mut self, name: &str) -> Option<Arc<dyn Processor>> {
        let place = self.processors.iter().position(|(processor, _)| processor.name() == name)?;
        let processor = self.processors.remove(place);
        self.processors.push(processor);
        self.processors.last().map(|(processor, _)| processor.clone())
    }

    fn last(mut self, setting: &'static str, say: impl FnOnce(&mut Options)) -> Self {
        match self.processors.last_mut() {
            Some((_, options)) => say(options),
            None => self.misplaced = self.misplaced.or(Some(setting)),
        }
        self
    }

    /// Sets how many shards the processor named last has when it runs for the first time: 1 by default, 1,024 at most.
    /// The shards run in parallel, on all nodes that run the processor.
    pub fn shards(self, shards: u16) -> Self {
        self.last("shards", |options| options.shards = shards)
    }

    /// Sets how many events of the processor named last are processed together at most. By default 1,000, and 10,000
    /// while a shard catches up, where more is faster and takes more memory; 250 of a saga or reactor.
    ///
    /// A subscription moves its checkpoint once a batch. After a crash, and after some errors, the batch at hand is
    /// handed over again, from its first event on. With `.batch(1)` at most one event of each shard is handed over
    /// again, at the cost of a transaction for each event.
    pub fn batch(self, events: usize) -> Self {
        self.last("batch", |options| options.batch = Some(events.max(1)))
    }

    /// Sets how many keys of the processor named last may be parked in a shard: 100 by default. With one more, the
    /// processor stops.
    pub fn max_parked(self, keys: usize) -> Self {
        self.last("max_parked", |options| options.max_parked = keys)
    }

    /// Parks events of the processor named last that cannot be read, with those behind them; by default the processor
    /// stops. A read model whose keys are those of its streams or tags parks the keys of the event. Any other processor
    /// parks the stream, which needs one shard. The node does not retry them: an operator does, with a program that can
    /// read them.
    pub fn park_unreadable(self) -> Self {
        self.last("park_unreadable", |options| options.park_unreadable = true)
    }

    /// Has the parked keys of the processor named last tried again once, whenever a program starts: its release may be
    /// able to process them.
    pub fn retry_at_start(self) -> Self {
        self.last("retry_at_start", |options| options.retry_at_start = true)
    }

    /// Leaves it to `promote` to send readers of plain SQL to a new version of the read model named last. By default
    /// they are sent to it as soon as it is built. Either way it is built and kept up to date.
    pub fn promote_by_hand(self) -> Self {
        self.last("promote_by_hand", |options| options.by_hand = true)
    }

    /// Has the processor named last, a subscription or a projection in SQL, begin with the first event recorded after
    /// the first node that runs it has made its checkpoint. Ignored once there is a checkpoint. A new read model that
    /// is told where to begin stops.
    pub fn from_now(self) -> Self {
        self.last("from_now", |options| options.start = Some(StartFrom::Now))
    }

    /// Has the processor named last begin with the first event of the log; see [`from_now`](Self::from_now).
    pub fn from_beginning(self) -> Self {
        self.last("from_beginning", |options| options.start = Some(StartFrom::Beginning))
    }

    /// Has the processor named last begin with the first event after a position; see [`from_now`](Self::from_now).
    pub fn from(self, position: Position) -> Self {
        self.last("from", |options| options.start = Some(StartFrom::After(position)))
    }

    /// Sets how long this process may be silent before others take its shards: 3 seconds by default, 50 milliseconds at
    /// least. It must be the same for all processes.
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease: lease.max(Duration::from_millis(50)), ..self }
    }

    /// Starts to run, on the runtime it is called in. Of two processors of the same name, the second is stopped at
    /// once. So is a processor whose name breaks the rules for names, with [`Invalid::Name`]: 1 to 256 bytes without
    /// control characters; an `@`, or `~shadow` at the end, only in the name of a read model's table.
    ///
    /// If a setting comes before any processor, as in `Runner::new(&store).shards(4).read_model::<Balance>()`, nothing
    /// runs. [`Running::until`] and reads that wait then fail with [`StoreError::Stopped`], caused by
    /// [`Invalid::Request`].
    pub fn start(mut self) -> Running {
        let misplaced = self.misplaced.map(|setting| {
            let why = format!("`.{setting}(…)` is said before any processor is named: say it after the one it is for");
            Arc::new(StoreError::from(Invalid::Request(why)))
        });
        let processors = match &misplaced {
            Some(_) => std::mem::take(&mut self.processors),
            None => vec![],
        };
        let mut refused = vec![];
        if let Some(reason) = misplaced {
            let names = processors.iter().map(|(processor, _)| processor.name());
            for name in names.chain(processors.is_empty().then(|| "runner".to_owned())) {
                tracing::error!(projection = name, %reason, "nothing runs");
                self.store.mark_running(&name, Some(reason.clone()), true);
                refused.push(watch::channel(Status::refused(name, reason.clone())).1);
            }
        }
        let (stop, stopped) = watch::channel(false);
        let (mut names, mut runs, mut reports) = (HashSet::new(), vec![], refused);
        let (mut besides, mut ticking) = (vec![], vec![]);
        for (processor, options) in self.processors {
            let name = processor.name();
            if let Err(reason) = check_name(&name, processor.table().is_some()) {
                let reason = Arc::new(StoreError::from(reason));
                tracing::error!(projection = name, %reason, "it does not run");
                self.store.mark_running(&name, Some(reason.clone()), true);
                reports.push(watch::channel(Status::refused(name, reason)).1);
                continue;
            }
            if !names.insert(name.clone()) {
                reports.push(watch::channel(Status::twice(name)).1);
                continue;
            }
            // From now on, a read that waits for it has something to wait for.
            self.store.mark_running(&name, None, false);
            let (report, status) = watch::channel(Status::new(name));
            if let Some(shadow) = processor.shadow() {
                let report = watch::channel(Status::new(shadow.name())).0;
                besides.push(LocalProcessor::new(shadow, options, report));
            }
            if processor.ticks() {
                ticking.push(processor.clone());
            }
            runs.push(LocalProcessor::new(processor, options, report));
            reports.push(status);
        }
        runs.append(&mut besides);
        let wake = Arc::new(Notify::new());
        let node = Node::new(self.store.clone(), self.lease, runs, wake.clone());
        let (id, tail) = (node.id(), node.tail());
        let task = tokio::spawn(node.run(stopped));
        let projections = Processors::here(&self.store, wake);
        Running { store: self.store, node: id, tail, reports, ticking, projections, stop, task }
    }
}

/// The processors that this process runs. They run on if this is dropped; [`stop`](Running::stop) ends them after the
/// batch at hand.
pub struct Running {
    store: Store,
    node: Uuid,
    tail: Arc<Tail>,
    reports: Vec<watch::Receiver<Status>>,
    /// The processors that do something by the clock.
    ticking: Vec<Arc<dyn Processor>>,
    projections: Processors,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// The operator's methods. All nodes obey them.
impl Deref for Running {
    type Target = Processors;

    fn deref(&self) -> &Processors {
        &self.projections
    }
}

impl Running {
    /// Returns when all its processors have come to this position: then a caller can read its own writes from all of
    /// them.
    ///
    /// [`StoreError::Stopped`] if a processor cannot go on. [`StoreError::Behind`], with what holds it up, if one has
    /// not come so far in 30 seconds. [`StoreError::Parked`], with the keys of the first such processor, if all have
    /// come so far but keys lack an event up to this position, because they wait behind one that could not be
    /// processed.
    pub async fn until(&self, position: Position) -> Result<(), StoreError> {
        self.reach(position).await?;
        for status in self.status() {
            let letters = dead_letters::first(self.store.as_ref(), &status.name).await?;
            let lacking: Vec<_> = letters.into_iter().filter(|letter| letter.position <= position).collect();
            if let Some(parked) = dead_letters::parked(&status.name, &lacking) {
                return Err(parked);
            }
        }
        Ok(())
    }

    /// Returns when all processors have come so far, whether or not keys are parked.
    async fn reach(&self, position: Position) -> Result<(), StoreError> {
        let all = async {
            for report in &self.reports {
                self.one(report.clone(), position).await?;
            }
            Ok(())
        };
        timeout(PATIENCE, all).await.unwrap_or_else(|_| {
            let late = self.status().into_iter().find(|status| status.position < position);
            late.map_or(Ok(()), |status| Err(status.behind(position)))
        })
    }

    async fn one(&self, mut report: watch::Receiver<Status>, position: Position) -> Result<(), StoreError> {
        let mut pause = Duration::from_millis(1);
        loop {
            let status = report.borrow_and_update().clone();
            if status.position >= position {
                return Ok(());
            }
            if status.stopped {
                return Err(status.behind(position));
            }
            let here = |owner| owner == Some(self.node);
            if !status.shards.is_empty() && status.shards.iter().all(|(_, at)| here(at.owner)) {
                if report.changed().await.is_err() {
                    return Err(status.behind(position));
                }
                continue;
            }
            // Other nodes run some of its shards, or none does yet.
            if self.store.as_ref().checkpoint(&status.name).await? >= position {
                return Ok(());
            }
            let _ = timeout(pause, report.changed()).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// For tests: has everything processed up to the end of the log, everything done that is due by the clock, and
    /// everything tried again that is due. Returns the end of the log. [`StoreError::Parked`] if keys are still parked,
    /// [`StoreError::Stopped`] if a processor cannot go on, [`StoreError::Behind`] if one has not come so far in 30
    /// seconds.
    ///
    /// The clock of the store decides what is due: on a store with a [`Clock`](eventstore_core::testing::Clock),
    /// advance it.
    pub async fn settle(&self) -> Result<Position, StoreError> {
        loop {
            let head = self.store.head().await?;
            self.reach(head).await?;
            self.ticked().await?;
            let waiting = self.retried().await?;
            // What ran may have appended events, and what was tried again may have let something else go on.
            if self.store.head().await? > head || self.due().await?.is_some() {
                continue;
            }
            let first = waiting.first().map(|letter| letter.projection.clone());
            let of = |name: &String| waiting.iter().filter(|letter| letter.projection == *name).cloned().collect();
            let letters: Vec<DeadLetter> = first.as_ref().map(of).unwrap_or_default();
            return first.and_then(|name| dead_letters::parked(&name, &letters)).map_or(Ok(head), Err);
        }
    }

    /// Returns once nothing is due by the clock. [`StoreError::Behind`] after 30 seconds.
    async fn ticked(&self) -> Result<(), StoreError> {
        let (start, mut pause) = (Instant::now(), Duration::from_millis(1));
        while let Some(status) = self.due().await? {
            if status.stopped || start.elapsed() > PATIENCE {
                return Err(status.behind(status.position));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Returns the status of a processor for which something is due by the clock. What is paused is passed over.
    async fn due(&self) -> Result<Option<Status>, StoreError> {
        for processor in &self.ticking {
            let name = processor.name();
            let status = self.status().into_iter().find(|status| status.name == name);
            let Some(status) = status.filter(|status| status.state != State::Paused) else { continue };
            let parked = Parked::load(self.store.as_ref(), &Shard::whole(name)).await?;
            if processor.is_due(&parked).await? {
                return Ok(Some(status));
            }
        }
        Ok(None)
    }

    /// Returns the first dead letter of each parked key, once nothing is due to be tried again, or after 30 seconds.
    async fn retried(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let (start, mut pause) = (Instant::now(), Duration::from_millis(1));
        loop {
            let store = self.store.as_ref();
            let mut waiting = vec![];
            for status in self.status() {
                waiting.extend(dead_letters::first(store, &status.name).await?);
            }
            let now = store.now();
            let due = waiting.iter().any(|letter| letter.retry_at.is_some_and(|at| at <= now));
            if !due || start.elapsed() > PATIENCE {
                return Ok(waiting);
            }
            self.tail.wake_waiters();
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Returns how far each processor of this runner has come, as this node knows it. It asks no store, so a shard that
    /// another node runs may have come further; [`Processors::status`](crate::Processors::status) asks the store about
    /// all nodes.
    pub fn status(&self) -> Vec<Status> {
        self.reports.iter().map(|report| report.borrow().clone()).collect()
    }

    /// Ends all processors after the batch at hand, and returns when they have ended.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // A task that panicked has ended, too.
        let _ = self.task.await;
    }
}
