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
use eventstore::{Event, EventStore, Id, Position, Processors, Query, Runner, StoreError, Transaction};
use eventstore_engine::{
    DecodedPage, Failure, Fault, KeyedEvents, Part, Processor, Queue, Reads, Remembered, StartFrom,
};

use crate::{cases::account::*, world};

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
