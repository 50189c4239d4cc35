//! The names of processors: which are refused, and that no name has what is another's.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use eventstore::{
    BoxError, EventStore, Expected, Inline, Invalid, Position, Processors, Query, Runner, Running, State, Store,
    StoreError, StreamId, Transaction, prelude::*, sqlx,
};
use eventstore_engine::{DecodedPage, Failure, Part, Processor, Queue, Reads, Remembered};

use super::{
    account::{AccountEvent::*, *},
    balances::Balance,
    world,
};

type Any = Box<dyn std::error::Error>;

const LEASE: Duration = Duration::from_millis(300);

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

#[track_caller]
fn is_refused<T: std::fmt::Debug>(refused: Result<T, StoreError>, name: &str) {
    let Err(error @ StoreError::Stopped { .. }) = refused else { panic!("{name:.20}: {refused:?}") };
    let typed = error.reason().and_then(|reason| reason.downcast_ref::<StoreError>());
    assert!(matches!(typed, Some(StoreError::Invalid(Invalid::Name { .. }))), "{name:.20}: {error:?}");
}

struct Named(String);

#[async_trait]
impl Processor for Named {
    fn name(&self) -> String {
        self.0.clone()
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
        _: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        Ok(vec![])
    }
}

#[tokio::test]
async fn p10_a_processor_whose_name_breaks_the_rules_is_stopped_at_once_and_no_other() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    for name in ["", "nul\0", "mail@2", "balance@1", "mail~shadow", &"x".repeat(257), &"x".repeat(5_000)] {
        let running = Runner::new(store).with(Named(name.into())).read_model::<Balance>().lease(LEASE).start();
        let last = deposit(store, "bob", 1).await?;
        is_refused(running.until(last).await, name);
        let status = running.status();
        let of_name: Vec<_> = status.iter().filter(|status| status.name == name).collect();
        assert!(of_name.iter().any(|status| status.stopped && status.state == State::Failed), "{name:.20}");
        let balance = store.read_model::<Balance>().get("bob").after(last).await?;
        assert_eq!(balance.map(|row| row.balance), Some(last.0 as i64), "{name:.20}");
        running.stop().await;
    }
    // Nothing of them was stored.
    let names: Vec<_> = Processors::new(store).status().await?.into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["balance@1"]);
    let running = Runner::new(store).with(Named("x".repeat(256))).with(Named("Möbel/a b".into())).start();
    running.until(store.head().await?).await?;
    running.stop().await;
    Ok(())
}

struct Ledger;

impl Projection for Ledger {
    const NAME: &'static str = "ledger@2";
    type Event = AccountEvent;
    type Db = sqlx::Sqlite;

    async fn project(&self, _: &Recorded<AccountEvent>, _: &mut sqlx::SqliteConnection) -> Result<(), BoxError> {
        Ok(())
    }
}

#[tokio::test]
async fn p10_a_store_that_keeps_a_processor_whose_name_breaks_the_rules_records_nothing() -> Result<(), Any> {
    let world = world().await;
    let inline = world.store.clone().with_inline_projection(Ledger);
    is_refused(deposit(&inline, "bob", 1).await, Ledger::NAME);
    assert_eq!(world.store.head().await?, Position(0));
    Ok(())
}

struct Mail(Arc<Mutex<Vec<Position>>>);

impl Subscription for Mail {
    const NAME: &'static str = "mail";
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        self.0.lock().unwrap().extend(events.iter().map(|event| event.position));
        Ok(())
    }
}

struct MailEu(Mail);

impl Subscription for MailEu {
    const NAME: &'static str = "mail/eu";
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        match events.iter().any(|event| event.data == Deposited { amount: 13 }) {
            true => Err("thirteen".into()),
            false => self.0.handle(events).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_the_dead_letters_of_a_name_that_begins_like_another_are_not_the_others() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (mail, eu) = (Arc::<Mutex<Vec<Position>>>::default(), Arc::<Mutex<Vec<Position>>>::default());
    let bad = deposit(store, "bob", 13).await?;
    let one = Runner::new(store).subscription(MailEu(Mail(eu.clone()))).from_beginning().lease(LEASE).start();
    reached(&one, bad).await?;
    let two = Runner::new(store).subscription(Mail(mail.clone())).from_beginning().lease(LEASE).start();
    let last = deposit(store, "bob", 1).await?;
    two.until(last).await?;
    reached(&one, last).await?;
    assert_eq!(*mail.lock().unwrap(), [bad, last]);
    let letters = async |name: &str| two.dead_letters(name).list().await.map(|letters| letters.len());
    assert_eq!((letters("mail").await?, letters("mail/eu").await?), (0, 2));
    // What is retried of the one leaves the other's where they are.
    assert_eq!(two.dead_letters("mail").retry_all().await?, (0, 0));
    assert_eq!(letters("mail/eu").await?, 2);
    two.dead_letters("mail/eu").skip("account-bob", "no").await?;
    one.until(last).await?;
    assert_eq!(*eu.lock().unwrap(), [last]);
    one.stop().await;
    two.stop().await;
    Ok(())
}
