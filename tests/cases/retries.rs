//! Parked keys that are tried again: nothing of them is left behind, and nothing is lost.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use eventstore::{
    Append, BoxError, EventStore, Expected, Inline, Position, Processors, Query, Runner, Running, Store, StoreError,
    StreamId, Transaction, Write, prelude::*,
};
use eventstore_engine::{DecodedPage, Failure, Part, Processor, Queue, Reads, Remembered};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::{
    account::{AccountEvent::*, *},
    time::PurseEvent,
    world,
};

type Any = Box<dyn std::error::Error>;

const LEASE: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);

async fn deposit(store: &Store, key: &str, amount: i64) -> Result<Position, StoreError> {
    Ok(store.append(StreamId::new("account", key), Expected::Any, [Deposited { amount }]).await?.last)
}

/// Waits until all have come to a position, whatever is parked.
async fn reached(running: &Running, position: Position) -> Result<(), StoreError> {
    match running.until(position).await {
        Err(StoreError::Parked { .. }) => Ok(()),
        reached => reached,
    }
}

/// Returns how many letters a processor has, once they are at most so many.
async fn left(operator: &Processors, name: &str, most: usize) -> Result<usize, StoreError> {
    let begun = Instant::now();
    loop {
        let letters = operator.dead_letters(name).list().await?.len();
        if letters <= most || begun.elapsed() > LONG {
            return Ok(letters);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

static SEVEN: AtomicI64 = AtomicI64::new(0);

/// No table can hold a row with a deposit of `SEVEN`.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(name = "hot")]
struct Hot {
    sum: f64,
}

impl Project for Hot {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        let Deposited { amount } = event.data else { return };
        row.sum += if amount == SEVEN.load(SeqCst) { f64::NAN } else { amount as f64 };
    }
}

/// A parked key, a store that keeps its row with each append, and appends while the key is tried again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_retry_beside_a_store_that_keeps_rows_leaves_no_event_behind() -> Result<(), Any> {
    let world = world().await;
    let store = world.store.clone();
    let inline = store.clone().with_inline::<Hot>();
    SEVEN.store(7, SeqCst);
    deposit(&inline, "bob", 1).await?;
    let running = Runner::new(&store).read_model::<Hot>().lease(LEASE).start();
    running.until(store.head().await?).await?;
    // The other store keeps no rows: the runner parks the event.
    let bad = deposit(&store, "bob", 7).await?;
    reached(&running, bad).await?;
    let appending = Arc::new(AtomicBool::new(true));
    let going_on = appending.clone();
    let appends = tokio::spawn(async move {
        while going_on.load(SeqCst) {
            deposit(&inline, "bob", 1).await?;
        }
        Ok::<_, StoreError>(())
    });
    sleep(Duration::from_millis(300)).await;
    SEVEN.store(0, SeqCst);
    let retried = timeout(LONG, running.dead_letters("hot").retry("bob")).await;
    appending.store(false, SeqCst);
    appends.await??;
    assert!(matches!(retried, Ok(Ok(()))), "{retried:?}");
    assert_eq!(left(&running, "hot", 0).await?, 0);
    let rows = store.read_model::<Hot>();
    let until = store.head().await?;
    assert_eq!(rows.list().after(until).await?, rows.live().list().await?);
    running.stop().await;
    Ok(())
}

static TAKES: AtomicBool = AtomicBool::new(false);

/// Takes its time, and no deposit of 13 before `TAKES`.
struct Slow(Arc<Mutex<Vec<Position>>>);

impl Subscription for Slow {
    const NAME: &'static str = "slow";
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        let takes = TAKES.load(SeqCst);
        if !takes && events.iter().any(|event| event.data == Deposited { amount: 13 }) {
            return Err("thirteen".into());
        }
        sleep(if takes { Duration::from_millis(200) } else { Duration::ZERO }).await;
        self.0.lock().unwrap().extend(events.iter().map(|event| event.position));
        Ok(())
    }
}

/// More events wait than are tried together, and the program ends in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_retry_that_is_cut_short_is_taken_up_by_the_next_program() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let operator = Processors::new(store);
    let seen = Arc::<Mutex<Vec<Position>>>::default();
    let start = || Runner::new(store).subscription(Slow(seen.clone())).from_beginning().lease(LEASE).start();
    let running = start();
    let bad = deposit(store, "bob", 13).await?;
    for _ in 0..5 {
        let deposits = [(); 500].map(|()| Deposited { amount: 1 });
        store.append(StreamId::new("account", "bob"), Expected::Any, deposits).await?;
    }
    let last = store.head().await?;
    reached(&running, last).await?;
    assert_eq!(operator.dead_letters("slow").list().await?.len(), 2_501);
    TAKES.store(true, SeqCst);
    let retry = tokio::spawn({
        let letters = operator.dead_letters("slow");
        async move { letters.retry("account-bob").await }
    });
    left(&operator, "slow", 2_000).await?;
    running.stop().await;
    retry.abort();
    let waiting = operator.dead_letters("slow").list().await?.len();
    assert!((1..2_000).contains(&waiting), "{waiting} events wait: this test proves nothing");

    let running = start();
    assert_eq!(left(&operator, "slow", 0).await?, 0);
    running.until(last).await?;
    // Each at least once, and in order.
    let mut once = HashSet::new();
    let seen: Vec<_> = seen.lock().unwrap().iter().copied().filter(|position| once.insert(*position)).collect();
    assert!(seen.is_sorted() && seen.first() == Some(&bad) && seen.len() == 2_501, "{} events", seen.len());
    running.stop().await;
    Ok(())
}

static OTHER_KEYS: AtomicBool = AtomicBool::new(false);
static ACCEPTS: AtomicBool = AtomicBool::new(false);

/// Its next release has other keys.
struct Keyed(Arc<Mutex<Vec<Position>>>);

impl Subscription for Keyed {
    const NAME: &'static str = "keyed";
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        if !ACCEPTS.load(SeqCst) {
            return Err("not yet".into());
        }
        self.0.lock().unwrap().extend(events.iter().map(|event| event.position));
        Ok(())
    }

    fn key(event: &Recorded<AccountEvent>) -> String {
        match OTHER_KEYS.load(SeqCst) {
            true => event.stream.key().to_owned(),
            false => event.stream.to_string(),
        }
    }
}

#[track_caller]
fn other_keys(tried: Result<(), StoreError>, name: &str, now: &str) {
    let Err(StoreError::Parked { projection, reason, .. }) = tried else { panic!("{tried:?}") };
    assert_eq!(projection, name);
    assert!(reason.starts_with("event 1 of stream account-bob"), "{reason}");
    assert!(reason.contains("its keys are others by now") && reason.contains(now), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_retry_with_other_keys_leaves_the_event_parked() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let seen = Arc::<Mutex<Vec<Position>>>::default();
    let start = || Runner::new(store).subscription(Keyed(seen.clone())).from_beginning().lease(LEASE).start();
    let running = start();
    let bad = deposit(store, "bob", 1).await?;
    let behind = deposit(store, "bob", 2).await?;
    reached(&running, behind).await?;
    running.stop().await;

    // The next release: its key of these events is `bob`.
    OTHER_KEYS.store(true, SeqCst);
    ACCEPTS.store(true, SeqCst);
    let running = start();
    let last = deposit(store, "bob", 3).await?;
    reached(&running, last).await?;
    let letters = running.dead_letters("keyed");
    other_keys(letters.retry("account-bob").await, "keyed", "`bob`");
    assert_eq!(letters.retry_all().await?, (0, 1));
    let tried = letters.try_run("account-bob").await?;
    assert_eq!((tried.waiting, tried.taken), (2, 0));
    assert!(tried.error.as_ref().is_some_and(|error| error.contains("its keys are others by now")), "{tried:?}");
    let waiting: Vec<_> = letters.list().await?.into_iter().map(|letter| letter.position).collect();
    assert_eq!((waiting, &*seen.lock().unwrap()), (vec![bad, behind], &vec![last]));
    running.stop().await;

    // The release with these keys takes them in.
    OTHER_KEYS.store(false, SeqCst);
    let running = start();
    running.dead_letters("keyed").retry("account-bob").await?;
    assert_eq!(running.dead_letters("keyed").list().await?, []);
    let mut seen = seen.lock().unwrap().clone();
    seen.dedup();
    assert_eq!(seen, [last, bad, behind]);
    running.stop().await;
    Ok(())
}

static OTHER_ROWS: AtomicBool = AtomicBool::new(false);
static THREE: AtomicI64 = AtomicI64::new(3);

#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(name = "by_kind", keys = kind)]
struct ByKind {
    sum: f64,
}

fn kind(event: &Recorded<AccountEvent>) -> Vec<String> {
    match (&event.data, OTHER_ROWS.load(SeqCst)) {
        (Deposited { .. }, false) => vec!["in".into(), "all".into()],
        (Deposited { .. }, true) => vec!["deposits".into()],
        _ => vec![],
    }
}

impl Project for ByKind {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        let Deposited { amount } = event.data else { return };
        row.sum += if amount == THREE.load(SeqCst) { f64::NAN } else { amount as f64 };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_retry_with_other_rows_leaves_the_event_parked() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let running = Runner::new(store).read_model::<ByKind>().lease(LEASE).start();
    let bad = deposit(store, "bob", 3).await?;
    let last = deposit(store, "bob", 4).await?;
    reached(&running, last).await?;
    let letters = running.dead_letters("by_kind");
    assert_eq!(letters.list().await?.len(), 4, "two events wait for two keys");
    THREE.store(0, SeqCst);
    OTHER_ROWS.store(true, SeqCst);
    other_keys(letters.retry("in").await, "by_kind@1", "`deposits`");
    assert_eq!(letters.retry_all().await?, (0, 2));
    assert_eq!(letters.first().await?.iter().map(|letter| letter.position).collect::<Vec<_>>(), [bad, bad]);
    OTHER_ROWS.store(false, SeqCst);
    assert_eq!(letters.retry_all().await?, (2, 0));
    let rows = store.read_model::<ByKind>();
    assert_eq!(rows.list().after(last).await?, rows.live().list().await?);
    running.stop().await;
    Ok(())
}

static THIRTEEN: AtomicI64 = AtomicI64::new(13);

/// Each part of an event concerns two rows.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(name = "parts", keys = part_keys)]
struct Parts {
    cents: f64,
}

fn part_keys(event: &Recorded<PurseEvent>) -> Vec<String> {
    let PurseEvent::Filled { cents } = event.data;
    vec!["all".into(), if cents < 0 { "out" } else { "in" }.into()]
}

impl Project for Parts {
    type Event = PurseEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<PurseEvent>) {
        let PurseEvent::Filled { cents } = event.data;
        row.cents += if cents == THIRTEEN.load(SeqCst) { f64::NAN } else { cents as f64 };
    }
}

/// An event that is read as several concerns `all`, `in`, `all` and `in`, both of which are parked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_an_event_that_is_read_as_several_waits_once_for_each_key() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let write = async |body: &[u8]| {
        let (stream, events) = (StreamId::new("purse", "a"), vec![super::raw("purse.filled", body)]);
        let write = Write { stream, expected: Expected::Any, events };
        world.inner.append(Append { writes: vec![write], ..Append::default() }).await
    };
    let bad = write(b"[13]").await?.last;
    let running = Runner::new(store).read_model::<Parts>().lease(LEASE).start();
    reached(&running, bad).await?;
    let last = write(b"[1,2]").await?.last;
    timeout(LONG, reached(&running, last)).await??;
    let letters = running.dead_letters("parts");
    assert_eq!(letters.list().await?.len(), 4, "two events wait for two keys");
    THIRTEEN.store(0, SeqCst);
    assert_eq!(letters.retry_all().await?, (2, 0));
    let rows = store.read_model::<Parts>();
    assert_eq!(rows.list().after(last).await?, rows.live().list().await?);
    running.stop().await;
    Ok(())
}

/// Has every event wait for a key that is not parked.
struct WaitsForNothing;

#[async_trait]
impl Processor for WaitsForNothing {
    fn name(&self) -> String {
        "waits".into()
    }

    fn query(&self) -> Query {
        Query::names(AccountEvent::NAMES)
    }

    fn reads(&self) -> Reads {
        Reads::of::<AccountEvent>()
    }

    async fn prepare(&self, _: &dyn EventStore) -> Result<(), Failure> {
        Ok(())
    }

    fn decode(&self, _: &DecodedPage, _: Range<usize>) {}

    async fn process(
        &self,
        _: &mut dyn Transaction,
        part: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        Ok(part.places.clone().map(|place| (Queue::Key("x".into()), place)).collect())
    }
}

#[tokio::test]
async fn p3_an_event_that_is_to_wait_for_a_key_that_is_not_parked_stops_the_processor() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let running = Runner::new(store).with(WaitsForNothing).lease(LEASE).start();
    let last = deposit(store, "bob", 1).await?;
    let stopped = running.until(last).await;
    let Err(StoreError::Stopped { reason, .. }) = stopped else { panic!("{stopped:?}") };
    let reason = reason.to_string();
    assert!(reason.starts_with("event 1 of stream account-bob") && reason.contains("`x`"), "{reason}");
    assert_eq!(world.inner.checkpoint("waits").await?, Position(0));
    running.stop().await;
    Ok(())
}
