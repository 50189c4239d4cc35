//! Which table readers are sent to: what is promoted, rolled back and built again, in every order, and after an outage.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use eventstore::{
    Changes, EventStore, Expected, Position, Processors, Runner, Running, Store, StoreError, StreamId, prelude::*,
};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{
    Between, World,
    account::AccountEvent::{self, *},
    world,
};

type Any = Box<dyn std::error::Error>;

const LEASE: Duration = Duration::from_millis(300);

/// A sum of deposits. One of a certain amount makes a row that no table can hold.
macro_rules! sum {
    ($name:ident, $model:literal, $version:literal, $bad:ident) => {
        static $bad: AtomicI64 = AtomicI64::new(0);

        #[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
        #[read_model(name = $model, version = $version)]
        struct $name {
            sum: f64,
        }

        impl Project for $name {
            type Event = AccountEvent;

            fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
                let Deposited { amount } = event.data else { return };
                row.sum += if amount == $bad.load(SeqCst) { f64::NAN } else { amount as f64 };
            }
        }
    };
}

sum!(Forced, "forced", 1, FORCED);
sum!(Again, "again", 1, AGAIN);
sum!(GivenUp, "given_up", 1, GIVEN_UP);
sum!(Old, "raced", 1, OLD);
sum!(Automatic, "raced", 2, AUTOMATIC);
sum!(ByHand, "raced", 3, BY_HAND);
sum!(Before, "outage", 1, BEFORE);
sum!(After, "outage", 2, AFTER);
sum!(One, "clocks", 1, ONE);
sum!(Two, "clocks", 2, TWO);

async fn deposit(store: &Store, key: &str, amount: i64) -> Result<Position, StoreError> {
    Ok(store.append(StreamId::new("account", key), Expected::Any, [Deposited { amount }]).await?.last)
}

/// Waits until all but parked keys have come to a position.
async fn reached(running: &Running, position: Position) -> Result<(), StoreError> {
    match running.until(position).await {
        Err(StoreError::Parked { .. }) => Ok(()),
        reached => reached,
    }
}

async fn current(store: &Store) -> Result<Option<String>, StoreError> {
    let status = Processors::new(store).status().await?;
    Ok(status.into_iter().find(|status| status.current).map(|status| status.name))
}

async fn until_current(store: &Store, name: &str) -> Result<(), Any> {
    let sent = async {
        while current(store).await?.as_deref() != Some(name) {
            sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, Any>(())
    };
    timeout(Duration::from_secs(20), sent).await.map_err(|_| format!("readers are not sent to {name}"))?
}

/// Three deposits, the last of which the first table cannot hold; it is built again and promoted, without fault.
async fn mended<M: ReadModel<Event = AccountEvent>>(world: &World, bad: &AtomicI64) -> Result<Running, Any> {
    let store = &world.store;
    for amount in [5, 6, 7] {
        deposit(store, "bob", amount).await?;
    }
    bad.store(7, SeqCst);
    let running = Runner::new(store).read_model::<M>().lease(LEASE).start();
    reached(&running, store.head().await?).await?;
    bad.store(0, SeqCst);
    running.rebuild(M::NAME).await?.wait().await?;
    running.promote(M::NAME).await?;
    Ok(running)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_rollback_that_is_refused_can_be_forced() -> Result<(), Any> {
    let world = world().await;
    let running = mended::<Forced>(&world, &FORCED).await?;
    let rows = world.store.read_model::<Forced>();
    assert_eq!(rows.get("bob").await?.map(|row| row.sum), Some(18.0));
    // The table that was kept waits at the third deposit.
    let refused = running.rollback("forced").await;
    assert!(matches!(refused, Err(StoreError::Parked { .. })), "{refused:?}");
    running.rollback_anyway("forced").await?;
    assert_eq!(rows.get("bob").await?.map(|row| row.sum), Some(11.0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_rebuild_after_a_refused_rollback_builds_all_rows_again() -> Result<(), Any> {
    let world = world().await;
    let running = mended::<Again>(&world, &AGAIN).await?;
    let refused = running.rollback("again").await;
    assert!(matches!(refused, Err(StoreError::Parked { .. })), "{refused:?}");
    running.rebuild("again").await?.wait().await?;
    running.promote("again").await?;
    assert_eq!(world.store.read_model::<Again>().get("bob").await?.map(|row| row.sum), Some(18.0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_rebuild_after_a_rollback_that_was_given_up_builds_all_rows_again() -> Result<(), Any> {
    let world = world().await;
    let (store, rows) = (&world.store, world.store.read_model::<GivenUp>());
    let first = deposit(store, "bob", 5).await?;
    let start = || Runner::new(store).read_model::<GivenUp>().lease(LEASE).start();
    let running = start();
    running.until(first).await?;
    // The row is wrong; it is built again.
    let row = serde_json::value::to_raw_value(&GivenUp { sum: 1_000_000.0 })?;
    let mut transaction = world.inner.begin().await?;
    let upserts = vec![("bob".into(), row)];
    transaction.write(Changes { table: GivenUp::TABLE, upserts, deletes: vec![] }).await?;
    transaction.commit().await?;
    running.rebuild("given_up").await?.wait().await?;
    running.promote("given_up").await?;
    assert_eq!(rows.get("bob").await?.map(|row| row.sum), Some(5.0));
    deposit(store, "bob", 1).await?;
    running.until(store.head().await?).await?;
    running.stop().await;
    // While nothing runs, an operator asks for the way back, and gives up.
    let given_up = timeout(Duration::from_secs(1), Processors::new(store).rollback("given_up")).await;
    assert!(given_up.is_err(), "{given_up:?}");
    let running = start();
    running.rebuild("given_up").await?.wait().await?;
    running.promote("given_up").await?;
    assert_eq!(rows.get("bob").await?.map(|row| row.sum), Some(6.0));
    Ok(())
}

/// A node that sends readers to its new version has read which one they are sent to before an operator changed that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_node_sends_readers_to_no_version_below_the_one_that_was_promoted_meanwhile() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let last = deposit(store, "bob", 1).await?;
    let _one = Runner::new(store).read_model::<Old>().lease(LEASE).start();
    until_current(store, "raced@1").await?;
    let three = Runner::new(store).read_model::<ByHand>().promote_by_hand().lease(LEASE).start();
    three.until(last).await?;
    Processors::new(store).building("raced@3").await?.wait().await?;
    let promoted = Arc::new(Mutex::new(None));
    let told = promoted.clone();
    let between = Between::new(&world.inner).let_in_after_index(2, move |store| async move {
        let done = Processors::new(&store).promote("raced@3").await;
        *told.lock().unwrap() = Some(done);
    });
    let elsewhere = Store::from(Arc::new(between) as Arc<dyn EventStore>);
    let two = Runner::new(&elsewhere).read_model::<Automatic>().lease(LEASE).start();
    two.until(last).await?;
    let done = async {
        while promoted.lock().unwrap().is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), done).await?;
    sleep(LEASE * 3).await;
    assert_eq!(current(store).await?.as_deref(), Some("raced@3"), "{:?}", promoted.lock().unwrap());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_readers_are_sent_to_a_new_version_after_an_outage() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let last = deposit(store, "bob", 1).await?;
    let _one = Runner::new(store).read_model::<Before>().lease(LEASE).start();
    until_current(store, "outage@1").await?;
    let breaks = Arc::new(AtomicUsize::new(0));
    let next = breaks.clone();
    let between = Between::new(&world.inner).broken_at(&breaks);
    let between = between.let_in_after_index(2, move |_| async move { next.store(1, SeqCst) });
    let elsewhere = Store::from(Arc::new(between) as Arc<dyn EventStore>);
    let two = Runner::new(&elsewhere).read_model::<After>().lease(LEASE).start();
    two.until(last).await?;
    until_current(store, "outage@2").await
}

#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(name = "indexed")]
struct Indexed {
    #[read_model(index)]
    balance: i64,
}

impl Project for Indexed {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        if let Deposited { amount } = event.data {
            row.balance += amount;
        }
    }
}

/// Whichever transaction cannot begin while the model gets ready, the next append makes up for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_an_inline_model_is_made_whole_after_an_outage() -> Result<(), Any> {
    for nth in 1..=6 {
        let world = world().await;
        for _ in 0..3 {
            deposit(&world.store, "bob", 1).await?;
        }
        let breaks = Arc::new(AtomicUsize::new(nth));
        let between = Between::new(&world.inner).broken_at(&breaks);
        let store = Store::from(Arc::new(between) as Arc<dyn EventStore>).with_inline::<Indexed>();
        for _ in 0..4 {
            let _ = deposit(&store, "bob", 1).await;
        }
        assert_eq!(current(&world.store).await?.as_deref(), Some("indexed@1"), "{nth}");
        let rows = store.read_model::<Indexed>();
        assert_eq!(rows.list().await?, rows.live().list().await?, "{nth}");
    }
    Ok(())
}

/// Takes half a millisecond for each event.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
struct Slow {
    events: u64,
}

impl Project for Slow {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, _: &Recorded<AccountEvent>) {
        std::thread::sleep(Duration::from_micros(500));
        row.events += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_rows_of_an_inline_model_are_not_read_before_they_are_whole() -> Result<(), Any> {
    let world = world().await;
    let base = &world.store;
    for _ in 0..6 {
        let deposits = [(); 250].map(|()| Deposited { amount: 1 });
        base.append(StreamId::new("account", "bob"), Expected::Any, deposits).await?;
    }
    let inline = base.clone().with_inline::<Slow>();
    let appending = tokio::spawn(async move { deposit(&inline, "bob", 1).await });
    let (mut seen, mut building) = (vec![], false);
    while !appending.is_finished() {
        match base.read_model::<Slow>().list().await {
            Ok(rows) => seen.push(rows.first().map(|(_, row)| row.events)),
            Err(error) => building |= matches!(error, StoreError::Building { .. }),
        }
        sleep(Duration::from_millis(10)).await;
    }
    appending.await??;
    assert!(seen.iter().all(|events| events.is_some_and(|events| events >= 1_500)), "{seen:?}");
    assert!(building, "a reader is told that it is being built");
    assert_eq!(base.read_model::<Slow>().get("bob").await?.map(|row| row.events), Some(1_501));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_read_in_a_transaction_says_that_the_table_is_being_built() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    for _ in 0..6 {
        let deposits = [(); 250].map(|()| Deposited { amount: 1 });
        store.append(StreamId::new("account", "bob"), Expected::Any, deposits).await?;
    }
    let running = Runner::new(store).read_model::<Slow>().batch(100).lease(LEASE).start();
    let being_built = async {
        while !matches!(store.read_model::<Slow>().get("bob").await, Err(StoreError::Building { .. })) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), being_built).await?;
    let transaction = store.begin().await?;
    let inside = transaction.read_model::<Slow>().get("bob").await;
    transaction.rollback().await?;
    running.stop().await;
    assert!(matches!(inside, Err(StoreError::Building { .. })), "{inside:?}");
    Ok(())
}

/// A version that an operator goes back to is the current one, also where the operator's clock is behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_rollback_by_a_clock_that_is_behind_is_a_rollback() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    deposit(store, "bob", 1).await?;
    let _one = Runner::new(store).read_model::<One>().lease(LEASE).start();
    until_current(store, "clocks@1").await?;
    let _two = Runner::new(store).read_model::<Two>().lease(LEASE).start();
    until_current(store, "clocks@2").await?;
    let behind = Between::new(&world.inner).behind(Duration::from_secs(120));
    let elsewhere = Store::from(Arc::new(behind) as Arc<dyn EventStore>);
    Processors::new(&elsewhere).rollback("clocks").await?;
    assert_eq!(current(store).await?.as_deref(), Some("clocks@1"));
    Processors::new(store).promote("clocks@2").await?;
    assert_eq!(current(store).await?.as_deref(), Some("clocks@2"));
    Ok(())
}
