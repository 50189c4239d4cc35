//! Handing events to something outside: each at least once, before the checkpoint passes it, and in order.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventstore::{
    BoxError, EventStore, Expected, Id, Invalid, Position, Processors, Refusal, Rows, Runner, Running, StartFrom,
    State, Store, StoreError, StreamId, Unavailable, prelude::*,
};
use futures::FutureExt;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    Between,
    account::{AccountEvent::*, *},
    balances::Balance,
    world,
};

type Any = Box<dyn std::error::Error>;

/// Something outside: what it got, and what it does not like.
#[derive(Clone)]
pub struct Outside {
    got: Arc<Mutex<Vec<(Uuid, Position)>>>,
    /// Takes nothing while it has no permit.
    gate: Arc<Semaphore>,
    /// How often something was handed to it.
    calls: Arc<AtomicUsize>,
    /// How often it fails on a deposit of 13; panics, if of 14.
    failures: Arc<Mutex<u32>>,
}

impl Outside {
    pub fn failing(failures: u32) -> Self {
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { got: Arc::default(), gate, calls: Arc::default(), failures: Arc::new(Mutex::new(failures)) }
    }

    pub fn positions(&self) -> Vec<u64> {
        self.got.lock().unwrap().iter().map(|(_, position)| position.0).collect()
    }
}

impl Subscription for Outside {
    const NAME: &'static str = "outside";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let _permit = self.gate.acquire().await?;
        for event in events {
            if let Deposited { amount: amount @ (13 | 14) } = event.data {
                let mut failures = self.failures.lock().unwrap();
                if let Some(left) = failures.checked_sub(1) {
                    *failures = left;
                    drop(failures);
                    assert!(amount == 13, "fourteen");
                    return Err("thirteen".into());
                }
            }
            self.got.lock().unwrap().push((event.id, event.position));
        }
        Ok(())
    }
}

#[tokio::test]
async fn every_event_is_handed_over_in_order_and_again_only_after_a_failure() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let outside = Outside::failing(0);
    for n in 0..3 {
        let runner = Runner::new(store).subscription(outside.clone()).start();
        store.append(&ann, Expected::Any, (0..5).map(|amount| Deposited { amount })).await?;
        runner.until(Position(n * 5 + 5)).await?;
        runner.stop().await;
        assert_eq!(world.inner.checkpoint("outside").await?, Position(n * 5 + 5));
    }
    assert_eq!(outside.positions(), (1..=15).collect::<Vec<_>>());

    // Twice it fails, by an error and by a panic: what was with it comes again, with the same ids, and nothing is left out.
    for amount in [13, 14] {
        *outside.failures.lock().unwrap() = 2;
        store.append(&ann, Expected::Any, [1, 2, amount, 4].map(|amount| Deposited { amount })).await?;
        let runner = Runner::new(store).subscription(outside.clone()).start();
        let head = runner.settle().await?;
        runner.stop().await;
        let mut first: Vec<(Uuid, Position)> = vec![];
        for (id, position) in outside.got.lock().unwrap().iter() {
            if first.iter().all(|(there, _)| there != id) {
                first.push((*id, *position));
            }
        }
        let positions: Vec<_> = first.iter().map(|(_, position)| position.0).collect();
        assert_eq!(positions, (1..=head.0).collect::<Vec<_>>(), "by its id, each is there once");
    }
    Ok(())
}

#[tokio::test]
async fn o3_events_are_handed_over_before_the_checkpoint_passes_them_and_a_stop_waits() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let mut outside = Outside::failing(0);
    outside.gate = Arc::new(Semaphore::new(0));
    let runner = Runner::new(store).subscription(outside.clone()).start();
    let written = store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    while outside.calls.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.inner.checkpoint("outside").await?, Position(0));
    let mut stop = Box::pin(runner.stop());
    tokio::select! {
        () = &mut stop => panic!("it has not waited"),
        () = tokio::time::sleep(Duration::from_millis(50)) => {}
    }
    assert!((&mut stop).now_or_never().is_none());
    outside.gate.add_permits(1);
    stop.await;
    assert_eq!(outside.positions(), [1]);
    assert_eq!(world.inner.checkpoint("outside").await?, written.last);
    Ok(())
}

/// Lets time pass until nothing waits any more: a minute at once, or what it takes where the clock cannot be moved.
async fn settled(world: &super::World, runner: &Running) -> Result<Position, StoreError> {
    loop {
        world.noon().await;
        match runner.settle().await {
            Err(StoreError::Parked { .. }) => {}
            settled => return settled,
        }
    }
}

#[tokio::test]
async fn p3_what_cannot_be_handed_over_waits_and_is_tried_again_when_it_is_due() -> Result<(), Any> {
    let world = world().await;
    let (store, ann, bob) = (&world.store, Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    let outside = Outside::failing(u32::MAX);
    let runner = Runner::new(store).subscription(outside.clone()).start();
    let deposits = store.append(&ann, Expected::Any, [1, 13, 3].map(|amount| Deposited { amount }));
    deposits.and(&bob, Expected::Any, [Deposited { amount: 4 }]).await?;
    let parked = runner.settle().await;
    let Err(StoreError::Parked { projection, keys, reason }) = parked else { panic!("{parked:?}") };
    assert_eq!((&*projection, keys.to_string()), ("outside", "`account-ann`".to_owned()));
    assert_eq!(reason, "event 2 of stream account-ann (`account.deposited`, position 2): thirteen");
    let mut got = outside.positions();
    got.dedup();
    assert!(got.ends_with(&[4]) && !got.contains(&3), "{got:?}");
    assert_eq!(world.inner.checkpoint("outside").await?, Position(4), "others go on");

    // Once more it fails; and then it is over.
    *outside.failures.lock().unwrap() = 1;
    assert_eq!(settled(&world, &runner).await?, Position(4));
    assert!(outside.positions().ends_with(&[2, 3]), "{:?}", outside.positions());
    assert_eq!(runner.dead_letters("outside").list().await?, []);
    runner.stop().await;
    Ok(())
}

/// Says nothing of where it begins.
struct Unsaid(Arc<Mutex<Vec<u64>>>);

impl Subscription for Unsaid {
    const NAME: &'static str = "unsaid";
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        self.0.lock().unwrap().extend(events.iter().map(|event| event.position.0));
        Ok(())
    }
}

#[tokio::test]
async fn g8_a_subscription_on_an_old_log_hands_over_what_was_asked_for() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let append = async |amount| store.append(&ann, Expected::Any, [Deposited { amount }]).await.map(|done| done.last);
    for amount in 1..=3 {
        append(amount).await?;
    }
    let got = Arc::new(Mutex::new(vec![]));
    let subscription = || Runner::new(store).subscription(Unsaid(got.clone()));
    let stopped = async |runner: Runner| {
        let running = runner.start();
        let stopped = running.until(Position(4)).await;
        let Err(error @ StoreError::Stopped { .. }) = stopped else { panic!("{stopped:?}") };
        assert!(error.to_string().starts_with("`unsaid` cannot run: "), "{error}");
        running.stop().await;
        error
    };
    append(4).await?;
    let reason = stopped(subscription()).await;
    let typed = reason.reason().and_then(|reason| reason.downcast_ref::<StoreError>());
    assert!(matches!(typed, Some(StoreError::NoStart { head: Position(4), .. })), "{reason}");
    for way in [".from_now()", ".from_beginning()", ".from(position)"] {
        assert!(reason.to_string().contains(way), "{reason}");
    }
    let beyond = stopped(subscription().from(Position(9))).await;
    assert!(beyond.to_string().contains("the log ends at 4"), "{beyond}");
    assert_eq!(world.inner.shards(Some("unsaid")).await?.len(), 0);
    assert_eq!(got.lock().unwrap().len(), 0);

    // After the second; and from then on it goes on from its checkpoint, whatever is said.
    let running = subscription().from(Position(2)).start();
    running.until(Position(4)).await?;
    running.stop().await;
    let running = subscription().from_beginning().start();
    running.until(append(5).await?).await?;
    running.stop().await;
    let running = subscription().start();
    running.until(append(6).await?).await?;
    running.stop().await;
    assert_eq!(*got.lock().unwrap(), [3, 4, 5, 6]);

    // From now on; and from the beginning.
    for (name, expected) in [("now", vec![7]), ("beginning", (1..=8).collect())] {
        let now = Later::default();
        let runner = Runner::new(store);
        let running = match name {
            "now" => runner.subscription(now.clone()).from_now().start(),
            _ => runner.subscription(Again(now.clone())).from_beginning().start(),
        };
        running.until(store.head().await?).await?;
        running.until(append(0).await?).await?;
        running.stop().await;
        assert_eq!(now.0.lock().unwrap().clone(), expected, "{name}");
    }
    // Of a model, every row is the fold of all events: it begins nowhere else.
    let running = Runner::new(store).read_model::<Balance>().from_now().start();
    assert!(matches!(running.until(Position(1)).await, Err(StoreError::Stopped { .. })));
    running.stop().await;
    Ok(())
}

#[derive(Clone, Default)]
struct Later(Arc<Mutex<Vec<u64>>>);

impl Subscription for Later {
    const NAME: &'static str = "later";
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        self.0.lock().unwrap().extend(events.iter().map(|event| event.position.0));
        Ok(())
    }
}

struct Again(Later);

impl Subscription for Again {
    const NAME: &'static str = "again";
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        self.0.handle(events).await
    }
}

/// Something outside that is away, for a while.
#[derive(Clone, Default)]
struct Away {
    away: Arc<std::sync::atomic::AtomicBool>,
    calls: Arc<AtomicUsize>,
    got: Arc<Mutex<Vec<(StreamId, u64)>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the letter was not sent")]
struct NotSent(#[source] Unavailable);

impl Subscription for Away {
    const NAME: &'static str = "away";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "nobody is there");
            return Err(NotSent(Unavailable::new(refused)).into());
        }
        self.got.lock().unwrap().extend(events.iter().map(|event| (event.stream.clone(), event.version.0)));
        Ok(())
    }
}

#[tokio::test]
async fn r7_an_outside_that_is_away_is_no_dead_letter_and_afterwards_everything_is_handed_over() -> Result<(), Any> {
    const STREAMS: usize = 300;
    let world = world().await;
    let (store, outside) = (&world.store, Away::default());
    outside.away.store(true, Ordering::SeqCst);
    for round in 0..3 {
        for n in 0..STREAMS {
            let id = Id::<Account>::from(format!("A{n}"));
            store.append(&id, Expected::Any, [Deposited { amount: round }]).await?;
        }
    }
    let running = Runner::new(store).subscription(outside.clone()).start();
    while outside.calls.load(Ordering::SeqCst) < 12 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let status = running.status().remove(0);
    assert!(!status.stopped && status.parked == 0 && status.position == Position(0), "{status:?}");
    let error = status.error.ok_or("what holds it up")?.to_string();
    assert!(error.ends_with("the letter was not sent: unavailable: nobody is there"), "{error}");
    assert_eq!(running.dead_letters("away").list().await?, []);

    outside.away.store(false, Ordering::SeqCst);
    running.until(store.head().await?).await?;
    let mut got = outside.got.lock().unwrap().clone();
    assert_eq!(got.len(), STREAMS * 3, "each once: nothing that was handed over is handed over again");
    got.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert!(got.chunks(3).all(|of_one| of_one.iter().map(|(_, version)| *version).eq(1..=3)), "in order");
    assert_eq!(running.dead_letters("away").list().await?, []);
    assert_ne!(running.status()[0].state, State::Failed);
    running.stop().await;
    Ok(())
}

/// Answers each event with a command, on a store that is away for a while.
#[derive(Clone)]
struct Answers {
    store: Store,
    away: Arc<std::sync::atomic::AtomicBool>,
    calls: Arc<AtomicUsize>,
}

impl Subscription for Answers {
    const NAME: &'static str = "answers";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Err(match call % 6 {
                0 => CommandError::<Refusal>::Store(StoreError::Unavailable("it restarts".into())).into(),
                1 => CommandError::<Refusal>::Store(StoreError::Busy("another has the lock".into())).into(),
                2 => std::io::Error::other(StoreError::Unavailable("it restarts".into())).into(),
                3 => Arc::new(StoreError::Busy("another has the lock".into())).into(),
                4 => (Arc::new(Unavailable::new("away")) as Arc<dyn std::error::Error + Send + Sync>).into(),
                _ => StoreError::Busy("another has the lock".into()).into(),
            });
        }
        for event in events.iter().filter(|event| matches!(event.data, Opened { .. })) {
            self.store.execute(Id::<Account>::from(event.stream.key()), Deposit { amount: 1 }).await?;
        }
        Ok(())
    }
}

/// Finding F14, its sibling: what a handler calls is a store.
#[tokio::test]
async fn r7_a_store_that_is_away_is_no_dead_letter_of_a_handler_that_executes_commands() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ann = Id::<Account>::from("ann");
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let away = Arc::new(true.into());
    let answers = Answers { store: store.clone(), away, calls: Arc::default() };
    let running = Runner::new(store).subscription(answers.clone()).start();
    while answers.calls.load(Ordering::SeqCst) < 9 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let status = running.status().remove(0);
    assert!(!status.stopped && status.parked == 0 && status.position == Position(0), "{status:?}");
    answers.away.store(false, Ordering::SeqCst);
    running.until(Position(2)).await?;
    assert_eq!(store.load(&ann).await?.balance, 1);
    assert_eq!(running.dead_letters("answers").list().await?, []);
    running.stop().await;
    Ok(())
}

#[tokio::test]
async fn r3_nothing_is_handed_over_that_a_crash_of_the_database_can_take_back() -> Result<(), Any> {
    let world = world().await;
    let disk = Arc::new(Semaphore::new(0));
    let store = Store::from(Between::new(&world.inner).flushed_by(&disk));
    let outside = Outside::failing(0);
    let running = Runner::new(&store).subscription(outside.clone()).start();
    let written = store.append(Id::<Account>::from("ann"), Expected::Any, [Deposited { amount: 1 }]).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(outside.calls.load(Ordering::SeqCst), 0, "it may still be lost");
    disk.add_permits(1);
    running.until(written.last).await?;
    assert_eq!(outside.positions(), [1]);
    running.stop().await;
    Ok(())
}

/// One event at a time: what was handed over before an event that fails, or before a crash, is not handed over again.
#[tokio::test]
async fn r4_a_subscription_with_batches_of_one_hands_over_one_event_again_at_most() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let outside = Outside::failing(1);
    // Also of events that are read together, for all processors.
    let runner = Runner::new(store).subscription(outside.clone()).batch(1).start();
    let deposits = store.append(&ann, Expected::Any, [1, 2, 13, 4, 5].map(|amount| Deposited { amount })).await?;
    runner.until(deposits.last).await?;
    assert_eq!(outside.positions(), [1, 2, 3, 4, 5], "each once");
    assert_eq!(outside.calls.load(Ordering::SeqCst), 6, "one event a call, and one call failed");
    runner.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_a_subscription_that_was_given_up_is_removed_and_may_start_again() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let outside = Outside::failing(u32::MAX);
    let runner = Runner::new(store).subscription(outside.clone()).start();
    let last = store.append(&ann, Expected::Any, [1, 13, 3].map(|amount| Deposited { amount })).await?.last;
    super::parked::reached(&runner, last).await?;
    let operator = Processors::new(store);
    let is_request = |done: &Result<(), StoreError>| matches!(done, Err(StoreError::Invalid(Invalid::Request(_))));
    for name in ["outside", "outsid", "balance"] {
        let refused = operator.discard(name).await;
        assert!(is_request(&refused), "{name}: {refused:?}");
    }
    assert_eq!(operator.dead_letters("outside").list().await?.len(), 2, "nothing has happened while it runs");
    runner.stop().await;

    assert_eq!(operator.status().await?[0].state, State::Detached);
    operator.discard("outside").await?;
    assert_eq!(operator.status().await?.len(), 0);
    assert!(is_request(&operator.discard("outside").await), "it is gone");
    assert!(operator.dead_letters("outside").list().await.is_err());
    for table in ["dead_letters", "projections"] {
        let rows = Rows::Whole { table: table.into(), keys: vec![], after: String::new(), limit: 9 };
        assert_eq!(world.inner.rows(rows).await?.len(), 0, "{table}");
    }

    // Under its name, as for the first time.
    let outside = Outside::failing(0);
    let runner = Runner::new(store).subscription(outside.clone()).from(Position(1)).start();
    runner.until(last).await?;
    assert_eq!(outside.positions(), [2, 3]);
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn p10_a_setting_before_any_processor_is_refused() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let last = store.append(&ann, Expected::Any, [Opened { owner: "Ann".into() }]).await?.last;
    let balances = store.read_model::<Balance>();
    let runners: [(&str, Runner); 4] = [
        ("shards", Runner::new(store).shards(4).read_model::<Balance>()),
        ("batch", Runner::new(store).batch(10).lease(Duration::from_secs(1)).read_model::<Balance>().shards(2)),
        ("park_unreadable", Runner::new(store).park_unreadable().read_model::<Balance>()),
        ("from_now", Runner::new(store).from_now()),
    ];
    for (setting, runner) in runners {
        let running = runner.start();
        let stopped = running.until(last).await;
        let Err(stopped @ StoreError::Stopped { .. }) = stopped else { panic!("{setting}: {stopped:?}") };
        let Some(StoreError::Invalid(Invalid::Request(why))) =
            stopped.reason().and_then(|reason| reason.downcast_ref())
        else {
            panic!("{setting}: {stopped}")
        };
        assert!(why.contains(&format!("`.{setting}(")), "{why}");
        assert!(running.status()[0].stopped);
        if setting != "from_now" {
            let read = balances.get(&ann).after(last).await;
            assert!(matches!(read, Err(StoreError::Stopped { .. })), "{read:?}");
        }
        running.stop().await;
    }
    // Said at the right place.
    let running = Runner::new(store).read_model::<Balance>().shards(4).start();
    running.until(last).await?;
    assert_eq!(world.inner.shards(Some("balance@1")).await?.len(), 4);
    running.stop().await;
    Ok(())
}

/// The store as a machine sees it whose clock is two minutes behind.
fn behind(world: &super::World) -> Store {
    let behind: Arc<dyn EventStore> = Arc::new(Between::new(&world.inner).behind(Duration::from_secs(120)));
    behind.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_what_an_operator_says_counts_whichever_clock_is_behind() -> Result<(), Any> {
    let lease = Duration::from_millis(300);
    let deposit = async |store: &Store| -> Result<Position, StoreError> {
        Ok(store.append(StreamId::new("account", "ann"), Expected::Any, [Deposited { amount: 13 }]).await?.last)
    };
    // A resume, from a machine that is behind the node's.
    let world = super::world().await;
    let outside = Outside::failing(u32::MAX);
    let running = Runner::new(&world.store).subscription(outside.clone()).max_parked(0).lease(lease).start();
    let last = deposit(&world.store).await?;
    let stopped = running.until(last).await;
    assert!(matches!(stopped, Err(StoreError::Stopped { .. })), "{stopped:?}");
    let operator = Processors::new(&behind(&world));
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while operator.status().await?.iter().any(|status| status.state != State::Failed) {
        assert!(tokio::time::Instant::now() < until, "that it has failed is not stored");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    *outside.failures.lock().unwrap() = 0;
    operator.resume("outside").await?;
    let goes_on = async {
        while outside.positions().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), goes_on).await?;
    running.until(last).await?;
    running.stop().await;

    // A retry, from a machine that is ahead of the node's.
    let world = super::world().await;
    let outside = Outside::failing(u32::MAX);
    let node = behind(&world);
    let running = Runner::new(&node).subscription(outside.clone()).lease(lease).start();
    let last = deposit(&node).await?;
    super::parked::reached(&running, last).await?;
    *outside.failures.lock().unwrap() = 0;
    Processors::new(&world.store).dead_letters("outside").retry("account-ann").await?;
    assert_eq!(outside.positions(), [last.0]);
    running.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_a_handler_that_hangs_holds_up_no_other_processor() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let outside = Outside::failing(0);
    outside.gate.forget_permits(Semaphore::MAX_PERMITS);
    let lease = Duration::from_millis(300);
    let running = Runner::new(store).subscription(outside.clone()).read_model::<Balance>().lease(lease).start();
    while outside.calls.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.pause("outside").await?;
    let last = store.execute(&ann, Deposit { amount: 1 }).await?.position;
    let row = store.read_model::<Balance>().get(&ann).after(last).within(Duration::from_secs(10)).await?;
    assert_eq!(row.map(|row| row.balance), Some(1));
    // The node goes on with its turns: a shadow is one more processor.
    let rebuilt = async { running.rebuild("balance").await?.wait().await };
    tokio::time::timeout(Duration::from_secs(20), rebuilt).await??;
    // Nothing waits for what it left behind.
    tokio::time::timeout(Duration::from_secs(20), running.stop()).await?;
    outside.gate.add_permits(1);
    assert_eq!(world.inner.checkpoint("outside").await?, Position(0));
    Ok(())
}
