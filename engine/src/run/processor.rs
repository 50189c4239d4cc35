//! The trait of processors: what a processor does with events, which differs from one kind to another.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    ops::Range,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use eventstore_core::{
    Changes, Checkpoint, EventStore, Position, Query, Raw, Recorded, Shard, StartFrom, StoreError, Table, Transaction,
};
use futures::FutureExt;
use serde_json::value::RawValue;

use crate::{
    failure::{Failure, Fault, Halt},
    record::{self, instances::InstanceStorage, queue::Queue, reads::Reads},
    run::{page::DecodedPage, parked::Parked},
};

/// Follows the log: a read model, a projection in SQL, a subscription, or a kind that an extension crate brings.
///
/// The engine reads and decodes pages of the log, and calls [`deliver`](Self::deliver) and [`process`](Self::process)
/// for the events of a shard, in the order of the log. It moves the shard's checkpoint in the same transaction as
/// `process`. A batch that fails is tried again with fewer events, down to the event to blame. That event is parked,
/// and with it those behind it ([`Failure`], [`Fault`](crate::Fault)). A panic anywhere else in its code stops the
/// processor on this node; other processors go on.
///
/// ```
/// use std::{ops::Range, sync::{Arc, atomic::{AtomicUsize, Ordering}}};
/// use async_trait::async_trait;
/// use eventstore::{EventStore, Query, Transaction, prelude::*};
/// use eventstore_engine::{DecodedPage, Failure, Part, Processor, Queue, Reads, Remembered, KeyedEvents};
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
///
/// /// Counts the events that this process has seen.
/// struct Counted(Arc<AtomicUsize>);
///
/// #[async_trait]
/// impl Processor for Counted {
///     fn name(&self) -> String {
///         "counted".into()
///     }
///
///     fn query(&self) -> Query {
///         Query::names(AccountEvent::NAMES)
///     }
///
///     fn reads(&self) -> Reads {
///         Reads::of::<AccountEvent>()
///     }
///
///     async fn prepare(&self, _: &dyn EventStore) -> Result<(), Failure> {
///         Ok(())
///     }
///
///     fn decode(&self, page: &DecodedPage, places: Range<usize>) {
///         page.decoded::<AccountEvent>().decode(page, places);
///     }
///
///     async fn process(
///         &self,
///         _: &mut dyn Transaction,
///         part: &Part<'_>,
///         _: Option<&mut Remembered>,
///     ) -> Result<Vec<(Queue, usize)>, Failure> {
///         let decoded = part.page.decoded::<AccountEvent>();
///         let turns = KeyedEvents::of(part, &decoded, |event| event.stream.to_string())?;
///         self.0.fetch_add(turns.events.len(), Ordering::Relaxed);
///         Ok(turns.waiting)
///     }
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = eventstore::connect("memory:").await?;
/// let count = Arc::new(AtomicUsize::new(0));
/// let runner = Runner::new(&store).with(Counted(count.clone())).start();
/// let deposited = store.execute(&Id::<Account>::from("ann"), Deposit { amount: 100 }).await?;
/// runner.until(deposited.position).await?;
/// assert_eq!(count.load(Ordering::Relaxed), 1);
/// runner.stop().await;
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Processor: Send + Sync {
    /// Returns the name of the checkpoint: 1 to 256 bytes without control characters. It has an `@`, or ends in `~shadow`,
    /// only if the processor keeps the table of a read model.
    fn name(&self) -> String;

    /// Returns the query for the events that the processor is called for. It is called with others, too: a node reads
    /// the end of the log once for all its processors, so a page has the events of all their queries. A processor must
    /// skip what its query does not match, as [`KeyedEvents`](crate::KeyedEvents) does for events of a type that is not
    /// its own.
    fn query(&self) -> Query;

    /// Returns the names of those events, each with the newest version that this program reads. Nodes of different
    /// releases compare these sets to find out which of them may run the processor.
    fn reads(&self) -> Reads;

    /// Returns where the processor begins when it runs for the first time. The default is the first event: a runner
    /// that says where such a processor begins stops it.
    fn begins(&self) -> Begins {
        Begins::FirstEvent
    }

    /// Returns the table that the processor keeps, if it is a declared read model.
    fn table(&self) -> Option<Table> {
        None
    }

    /// Returns where its instances are stored, if it is a process. A process is never built again: its commands were
    /// sent.
    fn instances(&self) -> Option<InstanceStorage> {
        None
    }

    /// Returns the same processor for the shadow of its table, if the table can be built again.
    fn shadow(&self) -> Option<Arc<dyn Processor>> {
        None
    }

    /// Returns folds that make the rows of these keys anew from their events, if the processor keeps rows: one fold for
    /// all keys, or one for each, whichever reads fewer events.
    fn refold(&self, keys: Vec<String>) -> Vec<Box<dyn RefoldRows>> {
        let _ = keys;
        vec![]
    }

    /// Returns the keys of the rows that an event concerns, if the processor keeps rows. Fails if the event cannot be
    /// read.
    fn keys(&self, event: &Recorded<Raw>) -> Result<Vec<String>, Failure> {
        let _ = event;
        Ok(vec![])
    }

    /// Empties what the processor has made, so that it can begin again with the first event.
    async fn clear(&self, transaction: &mut dyn Transaction) -> Result<(), Failure> {
        let _ = transaction;
        Ok(())
    }

    /// Makes the processor's tables. Called before the first batch, once a node, and again after a failure. Runs in a
    /// task of its own, which ends at an await if the node stops; other processors go on meanwhile.
    async fn prepare(&self, store: &dyn EventStore) -> Result<(), Failure>;

    /// Called when the processor is built: it has come to where the log ended when it began. Called again at each beat
    /// until it is stored as built. Returns why readers are not sent to its table yet, if so. A declared read model
    /// sends readers to its table; to that of a new version only if `promote` is true. Runs in a task of its own, as
    /// [`prepare`](Self::prepare) does.
    async fn built(&self, store: &dyn EventStore, promote: bool) -> Result<Option<StoreError>, StoreError> {
        let _ = promote;
        record::mark_built(store, &self.name()).await.map(|()| None)
    }

    /// Decodes events ahead of their turn, outside of any transaction. An event that cannot be decoded fails in
    /// `process`, not here.
    fn decode(&self, page: &DecodedPage, places: Range<usize>);

    /// Does what happens outside of the database, before the transaction begins. May be called again for the same
    /// events, after a crash or a failure.
    async fn deliver(&self, store: &dyn EventStore, part: &Part<'_>) -> Result<(), Failure> {
        let _ = (store, part);
        Ok(())
    }

    /// Processes a part in a transaction; the caller moves the checkpoint and commits. Returns the events that must
    /// wait behind a parked one: each by its queue and its place in the page. `remembered` has rows that need not be
    /// read; after a transaction that was not committed, the caller forgets them.
    async fn process(
        &self,
        transaction: &mut dyn Transaction,
        part: &Part<'_>,
        remembered: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure>;

    /// Returns the rows that [`process`](Self::process) would write; `None` if it would do anything else, or if an
    /// event must wait. Runs without a lock: another node may move the shard meanwhile, so an error here is not
    /// evidence against an event.
    async fn fold(
        &self,
        store: &dyn EventStore,
        part: &Part<'_>,
        remembered: Option<&mut Remembered>,
    ) -> Result<Option<Changes>, Failure> {
        let _ = (store, part, remembered);
        Ok(None)
    }

    /// Returns the processor as its own type, if a runner may be told more of it after it was given:
    /// [`Runner::again`](crate::Runner::again).
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// Whether [`tick`](Self::tick) does anything.
    fn ticks(&self) -> bool {
        false
    }

    /// Does what is due by the clock, between two batches: fires timers. Returns how long it may be until the next call,
    /// which is earlier if a part says so ([`Outputs::due_in`]). Called once the shard has processed what was in the log
    /// when this node took it.
    async fn tick(&self, tick: &Tick<'_>) -> Result<Duration, Halt> {
        let _ = tick;
        Ok(Duration::MAX)
    }

    /// Returns when there is something to do for [`tick`](Self::tick) that no clock and no event of the log tells of:
    /// messages have arrived. By default it never returns. Dropped at an await, and called again, as long as the shard
    /// waits; nothing may be lost by that.
    async fn arrived(&self, shard: &Shard) {
        let _ = shard;
        std::future::pending().await
    }

    /// Called when this node no longer runs a shard: closes what is open for it.
    fn released(&self, shard: &Shard, epoch: u64) {
        let _ = (shard, epoch);
    }

    /// Whether something is due by the clock, or is being done, in any shard; `parked`: the parked keys of all shards.
    /// For tests, which wait until that is done.
    async fn is_due(&self, parked: &Parked) -> Result<bool, StoreError> {
        let _ = parked;
        Ok(false)
    }
}

/// What a processor knows when it does what is due by the clock.
pub struct Tick<'a> {
    /// The shard whose keys are handled.
    pub shard: &'a Shard,
    /// The epoch at which this node has the shard.
    pub epoch: u64,
    /// The parked keys of that shard.
    pub parked: &'a Parked,
    /// Opens transactions that lock the shard.
    pub fence: &'a dyn Fence,
    /// Whether another node, or this one before a failure, may have begun what it did not finish: until the first call
    /// that returns a pause since the shard was taken or begun again.
    pub again: bool,
}

/// Opens transactions in which no other node moves the shard.
#[async_trait]
pub trait Fence: Send + Sync {
    /// Opens a transaction that has locked the processor, and returns the shard's checkpoint. [`Halt::Lost`] if the
    /// shard is another node's by now.
    async fn open(&self) -> Result<(Box<dyn Transaction>, Checkpoint), Halt>;
}

/// A shard of this node, and the checkpoint that the shard has as long as no other node takes it.
pub struct Held {
    /// The shard.
    pub shard: Shard,
    /// Its checkpoint, with this node and its epoch.
    pub at: Checkpoint,
}

/// What a processor keeps from one call to the next for the same part: from [`fold`](Processor::fold) to
/// [`deliver`](Processor::deliver) and [`process`](Processor::process).
#[derive(Default)]
pub struct Outputs {
    value: OnceLock<Box<dyn Any + Send + Sync>>,
    due_in: OnceLock<Duration>,
    /// Of each event that is tried again and has keys: `None` once one of them was processed or waits, else one of them.
    retried: Mutex<BTreeMap<Position, Option<String>>>,
}

impl Outputs {
    /// Keeps a value, unless there is one already.
    pub fn keep<T: Any + Send + Sync>(&self, value: T) {
        let _ = self.value.set(Box::new(value));
    }

    /// Returns the value, if there is one of this type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.value.get()?.downcast_ref()
    }

    /// Has [`tick`](Processor::tick) called within a time after the part is committed: the part has armed a timer. Of
    /// two calls, the first counts.
    pub fn due_in(&self, time: Duration) {
        let _ = self.due_in.set(time);
    }

    pub(crate) fn due(&self) -> Option<Duration> {
        self.due_in.get().copied()
    }

    /// Notes what a retry does with an event for a key.
    fn retries(&self, event: Position, key: &str, disposition: Disposition) {
        let mut retried = self.retried.lock().unwrap_or_else(PoisonError::into_inner);
        let elsewhere = retried.entry(event).or_insert_with(|| Some(key.into()));
        if disposition != Disposition::Elsewhere {
            *elsewhere = None;
        }
    }

    /// Returns the first event that was tried again for none of its keys, and one of these.
    fn elsewhere(&self) -> Option<(Position, String)> {
        let retried = self.retried.lock().unwrap_or_else(PoisonError::into_inner);
        retried.iter().find_map(|(event, key)| Some((*event, key.clone()?)))
    }
}

/// Has a processor process a part, as [`Processor::process`] does. A panic in its code is a failure.
pub async fn process(
    processor: &dyn Processor,
    transaction: &mut dyn Transaction,
    part: &Part<'_>,
    remembered: Option<&mut Remembered>,
) -> Result<Vec<(Queue, usize)>, Failure> {
    let processed = AssertUnwindSafe(processor.process(transaction, part, remembered)).catch_unwind().await;
    processed.unwrap_or_else(|panic| Err(Failure::panicked(&*panic)))
}

/// Rows that a shard has written while it catches up, as they are in the table. No other node writes them without
/// moving the checkpoint or changing the epoch.
#[derive(Default)]
pub struct Remembered {
    rows: HashMap<String, Box<RawValue>>,
    bytes: usize,
}

impl Remembered {
    /// How many bytes of keys and JSON are remembered at most.
    const MOST: usize = 8 << 20;

    pub fn take(&mut self, key: &str) -> Option<Box<RawValue>> {
        let row = self.rows.remove(key)?;
        self.bytes -= key.len() + row.get().len();
        Some(row)
    }

    /// Remembers a row. If that would exceed the limit, all others are forgotten.
    pub fn put(&mut self, key: String, row: Box<RawValue>) {
        self.take(&key);
        let bytes = key.len() + row.get().len();
        if self.bytes + bytes > Self::MOST {
            *self = Self::default();
        }
        if bytes <= Self::MOST {
            self.rows.insert(key, row);
            self.bytes += bytes;
        }
    }
}

/// Where a processor begins when it runs for the first time.
#[derive(Clone, Copy)]
pub enum Begins {
    /// With the first event of the log: its rows are a fold of all events.
    FirstEvent,
    /// As the runner or its type says; else with the first event.
    FirstEventUnlessSaid(Option<StartFrom>),
    /// As the runner or its type says. One of them must, unless the log is empty.
    AsSaid(Option<StartFrom>),
}

/// Rows that are folded anew from their events, in memory.
pub trait RefoldRows: Send + Sync {
    /// Returns the keys of the rows, in order.
    fn keys(&self) -> &[String];

    /// Returns a query for the events that may concern the rows.
    fn query(&self) -> Query;

    /// Folds the next event into the rows. A failure names the key.
    fn apply(&mut self, event: &Recorded<Raw>) -> Result<(), Failure>;

    /// Checks that the table can hold the rows as they are now. A failure names the key.
    fn check(&self) -> Result<(), Failure>;

    /// Returns the rows to write and the keys of the rows to delete.
    fn changes(&mut self) -> Result<Changes, Failure>;
}

/// Events that are processed together, and for which of their keys.
pub struct Part<'a> {
    /// The page that has the events.
    pub page: &'a DecodedPage,
    /// The places of the events in the page.
    pub places: Range<usize>,
    /// The shard whose keys are processed.
    pub shard: &'a Shard,
    /// The parked keys and streams of that shard.
    pub parked: &'a Parked,
    /// If parked events are tried again: the queue in which they wait. Only events of that queue are processed.
    pub only: Option<&'a Queue>,
    /// The shard of this node. `None`: nothing may be done outside of the transaction, as for a trial.
    pub held: Option<&'a Held>,
    /// What the processor keeps for this part.
    pub outputs: &'a Outputs,
}

/// What a part does with an event for a key.
#[derive(Clone, Copy, PartialEq)]
pub enum Disposition {
    /// Process the event.
    Process,
    /// Have the event wait behind others of the key.
    Wait,
    /// Skip the event for this key: it is another shard's, or not of the queue that is tried again.
    Elsewhere,
}

impl Part<'_> {
    /// Returns the queue of the event's stream, if all of that stream waits behind an event that could not be read.
    pub fn stream_waits(&self, event: &Recorded<Raw>) -> Option<Queue> {
        let stream = event.stream.as_str();
        (self.only.is_none() && self.parked.has_stream(stream)).then(|| Queue::Stream(stream.into()))
    }

    /// Returns what is to be done with an event for a key.
    pub fn disposition(&self, event: &Recorded<Raw>, key: &str) -> Disposition {
        let disposition = self.for_key(event, key);
        if self.only.is_some() {
            self.outputs.retries(event.position, key, disposition);
        }
        disposition
    }

    /// Fails if an event is tried again that has keys, and none of those that it waited for: its letter would be
    /// removed, and the event processed for none of its keys. Call it before anything is done outside of the
    /// transaction; the engine calls it after [`process`](Processor::process), too.
    pub fn same_keys(&self) -> Result<(), Failure> {
        let (Some(queue), Some((position, key))) = (self.only, self.outputs.elsewhere()) else { return Ok(()) };
        let why = format!(
            "its keys are others by now: it waits for `{}`, and this program says `{key}`; retry it with a program that \
             says the same keys, or skip it",
            queue.key()
        );
        let failed = Failure { fault: Fault::Row, ..Failure::theirs(why).in_queue(queue.clone()) };
        let event = self.page.events.iter().find(|event| event.position == position);
        Err(event.into_iter().fold(failed, Failure::at))
    }

    fn for_key(&self, event: &Recorded<Raw>, key: &str) -> Disposition {
        match self.only {
            Some(Queue::Key(only)) if only == key => Disposition::Process,
            Some(Queue::Key(_)) => Disposition::Elsewhere,
            // All events of a parked stream waited, whatever their keys.
            Some(Queue::Stream(only)) if only != event.stream.as_str() => Disposition::Elsewhere,
            _ if !self.shard.has(key) => Disposition::Elsewhere,
            _ if self.parked.has_key(key) => Disposition::Wait,
            _ => Disposition::Process,
        }
    }

    /// Returns the queues in which an event waits that cannot be read: those of its parked keys. Fails if one of its
    /// keys is not parked. Fails if the keys are unknown: in the queue of its stream if there is one shard, else in
    /// none.
    pub fn unreadable(
        &self,
        event: &Recorded<Raw>,
        keys: Option<Vec<String>>,
        failed: Failure,
    ) -> Result<Vec<Queue>, Failure> {
        let Some(keys) = keys else {
            return Err(match self.shard.is_whole() {
                true => failed.in_queue(Queue::Stream(event.stream.to_string())),
                // Another shard may have other keys of the event, so there is no order to wait in.
                false => failed,
            });
        };
        let mut waiting = vec![];
        for key in keys {
            match self.disposition(event, &key) {
                Disposition::Process => return Err(failed.of(&key)),
                Disposition::Wait => waiting.push(Queue::Key(key)),
                Disposition::Elsewhere => {}
            }
        }
        Ok(waiting)
    }
}
