//! A processor of another kind than the framework has, and what its mistakes do.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use eventstore::{
    EventStore, Id, MemoryStore, Position, Processors, Query, Runner, State, StoreError, Timestamp, Transaction,
    prelude::*, testing::Clock,
};
use eventstore_engine::{
    DecodedPage, Failure, Fault, KeyedEvents, Part, Processor, Queue, Reads, Remembered, StartFrom,
};

use crate::{
    cases::{account::*, balances::Balance},
    world,
};

type Any = Box<dyn std::error::Error>;

/// What it does with a withdrawal.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Fine,
    Refuses,
    Panics,
    /// So often it says that the store is away; then it is fine.
    Away(usize),
}

/// Notes what it has processed. It panics whenever it is to decode ahead.
#[derive(Clone)]
struct Notes {
    seen: Arc<Mutex<Vec<Position>>>,
    mood: Arc<Mutex<Mood>>,
    decoded: Arc<AtomicUsize>,
}

impl Notes {
    fn new(mood: Mood) -> Self {
        Self { seen: Arc::default(), mood: Arc::new(Mutex::new(mood)), decoded: Arc::default() }
    }

    fn feels(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }
}

#[async_trait]
impl Processor for Notes {
    fn name(&self) -> String {
        "notes".into()
    }

    fn query(&self) -> Query {
        Query::names(AccountEvent::NAMES)
    }

    fn reads(&self) -> Reads {
        Reads::of::<AccountEvent>()
    }

    fn begins(&self) -> eventstore_engine::Begins {
        eventstore_engine::Begins::AsSaid(Some(StartFrom::Beginning))
    }

    async fn prepare(&self, _: &dyn EventStore) -> Result<(), Failure> {
        Ok(())
    }

    fn decode(&self, _: &DecodedPage, _: Range<usize>) {
        self.decoded.fetch_add(1, Ordering::SeqCst);
        panic!("it cannot decode ahead");
    }

    async fn process(
        &self,
        _: &mut dyn Transaction,
        part: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        let decoded = part.page.decoded::<AccountEvent>();
        let keyed = KeyedEvents::of(part, &decoded, |event| event.stream.to_string())?;
        for event in &keyed.events {
            let mood = *self.mood.lock().unwrap();
            match (&event.data, mood) {
                (AccountEvent::Withdrawn { .. }, Mood::Refuses) => {
                    let failed = Failure { fault: Fault::Row, ..Failure::theirs("no withdrawals") };
                    let place = part.page.events.iter().position(|raw| raw.position == event.position).unwrap();
                    return Err(failed.at(&part.page.events[place]).of(event.stream.as_str()));
                }
                (AccountEvent::Withdrawn { .. }, Mood::Panics) => panic!("no withdrawals at all"),
                (AccountEvent::Withdrawn { .. }, Mood::Away(times)) if times > 0 => {
                    self.feels(Mood::Away(times - 1));
                    return Err(StoreError::Busy("later".into()).into());
                }
                _ => self.seen.lock().unwrap().push(event.position),
            }
        }
        Ok(keyed.waiting)
    }
}

#[tokio::test]
async fn p1_a_processor_that_panics_ahead_of_its_turn_processes_each_event_all_the_same() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let last = store.execute(&ann, Deposit { amount: 1 }).await?.position;
    let notes = Notes::new(Mood::Fine);
    // It is behind: it reads for itself, and decodes ahead.
    let runner = Runner::new(store).with(notes.clone()).start();
    tokio::time::timeout(Duration::from_secs(5), runner.until(last)).await??;
    assert_eq!(*notes.seen.lock().unwrap(), [Position(1), Position(2)]);
    assert!(notes.decoded.load(Ordering::SeqCst) > 0, "nothing was decoded ahead: this test proves nothing");
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn p3_what_would_happen_is_told_where_the_code_panics_and_once_the_store_is_there_again() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let notes = Notes::new(Mood::Refuses);
    let runner = Runner::new(store).with(notes.clone()).start();
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    store.execute(&ann, Deposit { amount: 5 }).await?;
    let last = store.execute(&ann, Withdraw { amount: 5 }).await?.position;
    let parked = runner.until(last).await;
    assert!(matches!(parked, Err(StoreError::Parked { .. })), "{parked:?}");
    let letters = Processors::new(store).dead_letters("notes");
    let try_run = async || tokio::time::timeout(Duration::from_secs(5), letters.try_run("account-ann")).await;
    notes.feels(Mood::Panics);
    let tried = try_run().await??;
    assert_eq!((tried.waiting, tried.taken), (1, 0));
    assert!(tried.error.as_deref().is_some_and(|why| why.contains("no withdrawals at all")), "{tried:?}");
    // That the store is away says nothing of the key.
    notes.feels(Mood::Away(2));
    let tried = try_run().await??;
    assert_eq!((tried.waiting, tried.taken, tried.error), (1, 1, None));
    assert!(notes.mood.lock().unwrap().eq(&Mood::Away(0)));
    // Nothing of it has stayed; a retry processes it.
    letters.retry("account-ann").await?;
    runner.until(last).await?;
    runner.stop().await;
    Ok(())
}

/// Where the code of a processor is at fault.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Query,
    Begins,
    Prepare,
    Built,
    Clear,
    Deliver,
}

/// What it does there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fails {
    Panics,
    Hangs,
    /// It says that the database has refused.
    Refused,
}

struct Faulty {
    at: Place,
    fails: Fails,
    calls: Arc<AtomicUsize>,
}

impl Faulty {
    fn is_at(&self, place: Place) {
        if self.at == place {
            self.calls.fetch_add(1, Ordering::SeqCst);
            assert!(self.fails != Fails::Panics, "{place:?} panics");
        }
    }

    async fn comes_to(&self, place: Place) -> Result<(), StoreError> {
        self.is_at(place);
        match self.fails {
            Fails::Hangs if self.at == place => std::future::pending().await,
            Fails::Refused if self.at == place => Err(StoreError::Database("no index of that".into())),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Processor for Faulty {
    fn name(&self) -> String {
        "faulty".into()
    }

    fn query(&self) -> Query {
        self.is_at(Place::Query);
        Query::names(AccountEvent::NAMES)
    }

    fn reads(&self) -> Reads {
        Reads::of::<AccountEvent>()
    }

    fn begins(&self) -> eventstore_engine::Begins {
        self.is_at(Place::Begins);
        eventstore_engine::Begins::AsSaid(Some(StartFrom::Beginning))
    }

    async fn prepare(&self, _: &dyn EventStore) -> Result<(), Failure> {
        Ok(self.comes_to(Place::Prepare).await?)
    }

    async fn built(&self, store: &dyn EventStore, _: bool) -> Result<Option<StoreError>, StoreError> {
        self.comes_to(Place::Built).await?;
        eventstore_engine::record::mark_built(store, &self.name()).await.map(|()| None)
    }

    async fn clear(&self, _: &mut dyn Transaction) -> Result<(), Failure> {
        Ok(self.comes_to(Place::Clear).await?)
    }

    fn decode(&self, _: &DecodedPage, _: Range<usize>) {}

    async fn deliver(&self, _: &dyn EventStore, _: &Part<'_>) -> Result<(), Failure> {
        Ok(self.comes_to(Place::Deliver).await?)
    }

    async fn process(
        &self,
        _: &mut dyn Transaction,
        _: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        Ok(vec![])
    }
}

async fn soon(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool, StoreError>) -> Result<(), Any> {
    let wait = async {
        while !is_so().await? {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, StoreError>(())
    };
    Ok(tokio::time::timeout(Duration::from_secs(20), wait).await.map_err(|_| what.to_owned())??)
}

/// The read model beside it is kept up to date and can be built again.
async fn the_other_goes_on(world: &crate::cases::World, running: &eventstore::Running) -> Result<(), Any> {
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let last = store.execute(&ann, Deposit { amount: 1 }).await?.position;
    let balances = store.read_model::<Balance>();
    let row = balances.get(&ann).after(last).within(Duration::from_secs(20)).await?;
    assert!(row.is_some());
    let rebuilt = async {
        running.rebuild("balance").await?.wait().await?;
        running.promote("balance").await
    };
    Ok(tokio::time::timeout(Duration::from_secs(20), rebuilt).await??)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_processor_that_panics_is_given_up_and_the_others_go_on() -> Result<(), Any> {
    use Place::*;
    for at in [Query, Begins, Prepare, Built, Clear, Deliver] {
        let world = world().await;
        let (store, ann) = (&world.store, Id::<Account>::from("ann"));
        let last = store.execute(&ann, Open { owner: "Ann".into() }).await?.position;
        let calls = Arc::<AtomicUsize>::default();
        let faulty = Faulty { at, fails: Fails::Panics, calls: calls.clone() };
        let runner = Runner::new(store).with(faulty).read_model::<Balance>();
        let running = runner.lease(Duration::from_millis(300)).start();
        if at == Clear {
            running.until(last).await?;
            running.rebuild("faulty").await?;
        }
        let operator = Processors::new(store);
        soon(&format!("{at:?}: no operator is told"), async || {
            let status = operator.status().await?;
            Ok(status.iter().any(|status| status.name == "faulty" && status.state == State::Failed))
        })
        .await?;
        the_other_goes_on(&world, &running).await?;
        let status = running.status().remove(0);
        let why = status.error.map(|error| error.to_string()).unwrap_or_default();
        assert!(status.stopped && why.contains("panic"), "{at:?}: {why}");
        // It is tried again once it is resumed.
        let before = calls.load(Ordering::SeqCst);
        operator.resume("faulty").await?;
        soon(&format!("{at:?}: it is not given up again"), async || {
            let status = operator.status().await?;
            let failed = status.iter().any(|status| status.name == "faulty" && status.state == State::Failed);
            // The query is asked for once.
            Ok(failed && (at == Query || calls.load(Ordering::SeqCst) > before))
        })
        .await?;
        tokio::time::timeout(Duration::from_secs(20), running.stop()).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_processor_that_hangs_or_is_refused_before_or_after_it_runs_holds_up_no_other() -> Result<(), Any> {
    for (at, fails) in [
        (Place::Prepare, Fails::Hangs),
        (Place::Built, Fails::Hangs),
        (Place::Prepare, Fails::Refused),
        (Place::Built, Fails::Refused),
    ] {
        let world = world().await;
        let (store, ann) = (&world.store, Id::<Account>::from("ann"));
        store.execute(&ann, Open { owner: "Ann".into() }).await?;
        let calls = Arc::<AtomicUsize>::default();
        let runner = Runner::new(store).with(Faulty { at, fails, calls: calls.clone() });
        let runner = runner.read_model::<Balance>();
        let running = runner.lease(Duration::from_millis(300)).start();
        soon("it is not called", async || Ok(calls.load(Ordering::SeqCst) > 0)).await?;
        the_other_goes_on(&world, &running).await?;
        // One that was refused is tried again and again; one that hangs is called once.
        if fails == Fails::Refused {
            soon("it is not tried again", async || Ok(calls.load(Ordering::SeqCst) > 2)).await?;
            // At beats and when the node is woken, and not without a pause.
            let (before, start) = (calls.load(Ordering::SeqCst), tokio::time::Instant::now());
            tokio::time::sleep(Duration::from_millis(600)).await;
            let (more, beats) = (calls.load(Ordering::SeqCst) - before, start.elapsed().as_millis() / 60);
            assert!(more as u128 <= 2 * beats + 5, "{more} calls in {beats} beats");
        } else {
            assert_eq!(calls.load(Ordering::SeqCst), 1);
        }
        tokio::time::timeout(Duration::from_secs(20), running.stop()).await?;
    }
    Ok(())
}

/// A clock of tests may stand still: what begins again is told from what was there by its row, not by the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_table_is_built_again_and_again_on_a_clock_that_stands_still() -> Result<(), Any> {
    let clock = Clock::stopped_at(Timestamp::from_micros(1_700_000_000_000_000));
    let store = Store::from(MemoryStore::with_clock(&clock));
    let ann = Id::<Account>::from("ann");
    let opened = store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let running = Runner::new(&store).read_model::<Balance>().lease(Duration::from_millis(300)).start();
    running.until(opened.position).await?;
    for _ in 0..3 {
        let built = async {
            running.rebuild("balance").await?.wait().await?;
            running.promote("balance").await
        };
        tokio::time::timeout(Duration::from_secs(20), built).await??;
    }
    running.pause("balance").await?;
    running.resume("balance").await?;
    let deposited = store.execute(&ann, Deposit { amount: 1 }).await?;
    tokio::time::timeout(Duration::from_secs(20), running.until(deposited.position)).await??;
    running.stop().await;
    Ok(())
}
