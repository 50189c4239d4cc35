//! Rows that lack events, since a key waits behind one that could not be processed: reads and operators are told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use eventstore::{
    Append, EventStore, Expected, Position, Processors, Rows, Runner, Running, State, Store, StoreError, StreamId,
    Write, prelude::*,
};
use serde::{Deserialize, Serialize};

use super::{
    Between, World,
    account::{AccountEvent::*, *},
    balances::*,
    world,
};

type Any = Box<dyn std::error::Error>;

const LEASE: Duration = Duration::from_millis(300);

/// A deposit of this amount makes a row that no table can hold: its key is parked at once, and not tried again by itself.
macro_rules! sum {
    ($name:ident, $version:literal, $bad:ident) => {
        static $bad: AtomicI64 = AtomicI64::new(0);

        #[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
        #[read_model(name = "sum", version = $version)]
        struct $name {
            #[read_model(index)]
            kind: String,
            sum: f64,
        }

        impl Project for $name {
            type Event = AccountEvent;

            fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
                let Deposited { amount } = event.data else { return };
                row.kind = "sum".into();
                row.sum += if amount == $bad.load(SeqCst) { f64::NAN } else { amount as f64 };
            }
        }
    };
}

sum!(Sum, 1, BAD);
sum!(Sum2, 2, BAD2);
sum!(Sum3, 3, BAD3);
sum!(Sum4, 4, BAD4);
sum!(Sum5, 5, BAD5);

async fn deposit(store: &Store, key: &str, amount: i64) -> Result<Position, StoreError> {
    Ok(store.append(StreamId::new("account", key), Expected::Any, [Deposited { amount }]).await?.last)
}

/// Waits until all have come to a position, whatever is parked.
pub async fn reached(running: &Running, position: Position) -> Result<(), StoreError> {
    match running.until(position).await {
        Err(StoreError::Parked { .. }) => Ok(()),
        reached => reached,
    }
}

async fn current(operator: &Processors) -> Result<Option<String>, StoreError> {
    let status = operator.status().await?.into_iter().find(|status| status.current);
    Ok(status.map(|status| status.name))
}

async fn becomes(operator: &Processors, name: &str) -> Result<(), Any> {
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while current(operator).await?.as_deref() != Some(name) {
        assert!(tokio::time::Instant::now() < until, "readers are not sent to {name}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// What plain SQL finds of a row of `sum@current`.
async fn by_sql(world: &World, key: &str) -> Result<Option<f64>, Any> {
    let table = match world.inner.database().is::<()>() {
        // The store in memory has no SQL.
        true => current(&Processors::new(&world.store)).await?.ok_or("none is current")?,
        false => "sum@current".into(),
    };
    let rows = Rows::Whole { table, keys: vec![key.into()], after: String::new(), limit: 1 };
    let rows = world.inner.rows(rows).await?;
    Ok(match rows.first() {
        Some((_, row)) => serde_json::from_str::<serde_json::Value>(row.get())?["sum"].as_f64(),
        None => None,
    })
}

#[track_caller]
fn parked(result: Result<(), StoreError>, name: &str, expected: &[&str]) {
    let Err(StoreError::Parked { projection, keys, reason }) = result else { panic!("{result:?}") };
    assert_eq!((&*projection, keys.count), (name, expected.len()));
    assert_eq!(keys.listed, expected);
    assert!(reason.starts_with("event "), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_version_with_parked_keys_is_not_promoted() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    deposit(store, "ann", 10).await?;
    deposit(store, "bob", 10).await?;
    deposit(store, "bob", 40).await?;
    let old = Runner::new(store).read_model::<Sum>().lease(LEASE).start();
    old.until(store.head().await?).await?;
    let operator = Processors::new(store);
    becomes(&operator, "sum@1").await?;

    BAD2.store(40, SeqCst);
    let new = Runner::new(store).read_model::<Sum2>().lease(LEASE).start();
    reached(&new, store.head().await?).await?;
    parked(operator.promote("sum").await, "sum@2", &["bob"]);
    // Several beats: by itself it is not promoted either.
    tokio::time::sleep(LEASE * 2).await;
    assert_eq!(current(&operator).await?.as_deref(), Some("sum@1"));
    assert_eq!(by_sql(&world, "bob").await?, Some(50.0));
    // The node says what it waits for.
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let status = new.status().remove(0);
        assert_eq!((status.state, status.parked), (State::Active, 1));
        if status.error.is_some_and(|error| error.to_string().contains("`bob`")) {
            break;
        }
        assert!(tokio::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    // As soon as the key is complete, it is.
    BAD2.store(0, SeqCst);
    operator.dead_letters("sum@2").retry("bob").await?;
    becomes(&operator, "sum@2").await?;
    assert_eq!(by_sql(&world, "bob").await?, Some(50.0));

    // The way back is refused as well, where rows would be older.
    BAD.store(7, SeqCst);
    let last = deposit(store, "ann", 7).await?;
    reached(&old, last).await?;
    new.until(last).await?;
    parked(operator.rollback("sum").await, "sum@1", &["ann"]);
    assert_eq!(by_sql(&world, "ann").await?, Some(17.0));
    operator.rollback_anyway("sum").await?;
    assert_eq!(by_sql(&world, "ann").await?, Some(10.0));
    operator.promote("sum@2").await?;
    assert_eq!(by_sql(&world, "ann").await?, Some(17.0));
    old.stop().await;
    new.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_rebuilt_table_with_parked_keys_is_not_promoted() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let rows = store.read_model::<Sum3>();
    for (key, amount) in [("ann", 1), ("bob", 5), ("bob", 6), ("bob", 7), ("cid", 1)] {
        deposit(store, key, amount).await?;
    }
    BAD3.store(7, SeqCst);
    let running = Runner::new(store).read_model::<Sum3>().lease(LEASE).start();
    reached(&running, store.head().await?).await?;
    assert_eq!(rows.get("bob").await?.map(|row| row.sum), Some(11.0));

    // Parked in both, but at an earlier event in the new one: its row is older.
    BAD3.store(6, SeqCst);
    running.rebuild("sum").await?.wait().await?;
    parked(running.promote("sum").await, "sum@3~shadow", &["bob"]);
    assert_eq!(rows.get("bob").await?.map(|row| row.sum), Some(11.0));
    running.promote_anyway("sum").await?;
    assert_eq!(rows.get("bob").await?.map(|row| row.sum), Some(5.0));
    // What was read before is not older, and becomes what is read again.
    running.rollback("sum").await?;
    assert_eq!(rows.get("bob").await?.map(|row| row.sum), Some(11.0));
    parked(running.rollback("sum").await, "sum@3~shadow", &["bob"]);

    // Parked at the same event in both: no row gets older.
    BAD3.store(7, SeqCst);
    running.discard("sum@3~shadow").await?;
    running.rebuild("sum").await?.wait().await?;
    running.promote("sum").await?;
    assert_eq!(rows.get("bob").await?.map(|row| row.sum), Some(11.0));
    running.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_lists_and_waits_say_which_rows_are_incomplete() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    deposit(store, "ann", 10).await?;
    let before = deposit(store, "bob", 5).await?;
    let rows = store.read_model::<Sum4>();
    assert!(rows.incomplete().await?.is_empty(), "no node has run");
    BAD4.store(7, SeqCst);
    let running = Runner::new(store).read_model::<Sum4>().shards(4).start();
    running.until(before).await?;
    let bad = deposit(store, "bob", 7).await?;
    let last = deposit(store, "ann", 1).await?;
    parked(running.until(last).await, "sum@4", &["bob"]);
    parked(rows.list().after(last).await.map(drop), "sum@4", &["bob"]);
    parked(rows.list().filter("kind", "sum").after(last).await.map(drop), "sum@4", &["bob"]);
    parked(rows.list().after(bad).within(Duration::ZERO).await.map(drop), "sum@4", &["bob"]);
    parked(rows.get("bob").after(last).await.map(drop), "sum@4", &["bob"]);
    assert_eq!(rows.get("ann").after(last).await?.map(|row| row.sum), Some(11.0), "others are complete");
    // Up to an earlier position nothing lacks.
    running.until(before).await?;
    assert_eq!(rows.list().after(before).await?.len(), 2);
    assert_eq!(rows.get("bob").after(before).await?.map(|row| row.sum), Some(5.0));
    // Whoever does not ask for a position can ask how many rows are incomplete.
    assert_eq!(rows.list().await?.len(), 2);
    let incomplete = rows.incomplete().await?;
    assert_eq!((incomplete.count, &*incomplete.listed), (1, &["bob".to_owned()][..]));
    assert_eq!(Processors::new(store).status().await?[0].parked, 1);

    // So many are named, and all are counted.
    let mut last = last;
    for n in 0..24 {
        last = deposit(store, &format!("k{n:02}"), 7).await?;
    }
    let Err(StoreError::Parked { keys, .. }) = rows.list().after(last).await else { panic!("25 keys wait") };
    assert_eq!((keys.count, keys.listed.len(), &*keys.listed[0]), (25, 20, "bob"));
    assert!(keys.to_string().ends_with("`k18` and 5 more"), "{keys}");

    // Complete again.
    BAD4.store(0, SeqCst);
    assert_eq!(running.dead_letters("sum").retry_all().await?, (25, 0));
    running.until(last).await?;
    assert_eq!(rows.list().after(last).await?.len(), 26);
    assert!(rows.incomplete().await?.is_empty());
    running.stop().await;
    Ok(())
}

/// The keys of an event that cannot be read are not known where a function says them: any row may lack it.
#[tokio::test]
async fn p3_a_row_is_not_complete_where_an_event_of_unknown_keys_waits() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let before = deposit(store, "ann", 10).await?;
    let stream = StreamId::new("account", "ann");
    let write = Write { stream, expected: Expected::Any, events: vec![super::raw("account.deposited", b"{}")] };
    world.inner.append(Append { writes: vec![write], ..Append::default() }).await?;
    let last = deposit(store, "bob", 5).await?;
    let running = Runner::new(store).read_model::<Turnover>().park_unreadable().start();
    parked(running.until(last).await, "turnover@1", &["account-ann"]);
    let rows = store.read_model::<Turnover>();
    parked(rows.get("in").after(last).await.map(drop), "turnover@1", &["account-ann"]);
    assert_eq!(rows.get("in").after(before).await?.map(|row| row.total), Some(15));
    assert_eq!(rows.incomplete().await?.listed, ["account-ann"]);
    running.stop().await;
    Ok(())
}

/// A key that waits for a day has a letter for each event: finding out what waits does not read them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_what_waits_is_found_without_reading_all_dead_letters() -> Result<(), Any> {
    let world = world().await;
    let between = Between::new(&world.inner);
    let letters = between.letters();
    let store = Store::from(Arc::new(between) as Arc<dyn EventStore>);
    BAD5.store(7, SeqCst);
    let running = Runner::new(&store).read_model::<Sum5>().start();
    deposit(&store, "ann", 10).await?;
    let bad = deposit(&store, "bob", 7).await?;
    // As many as the pages of a sweep could not hold.
    const BEHIND: u64 = 2_000;
    for _ in 0..BEHIND / 500 {
        store
            .append(StreamId::new("account", "bob"), Expected::Any, [(); 500].map(|()| Deposited { amount: 1 }))
            .await?;
    }
    let last = deposit(&store, "ann", 1).await?;
    reached(&running, last).await?;
    let rows = store.read_model::<Sum5>();
    let operator = Processors::new(&store);
    let waiting = operator.dead_letters("sum");
    assert_eq!(waiting.list().await?.len() as u64, BEHIND + 1);
    let first = waiting.first().await?;
    assert_eq!((first.len(), first[0].position), (1, bad));
    running.rebuild("sum").await?.wait().await?;

    letters.store(0, SeqCst);
    let read = async |what: &str, done: Result<(), StoreError>, parked: bool| {
        assert_eq!(matches!(done, Err(StoreError::Parked { .. })), parked, "{what}: {done:?}");
        let read = letters.swap(0, SeqCst);
        assert!(read < 500, "{what}: {read} letters were read");
    };
    read("get", rows.get("bob").after(last).await.map(drop), true).await;
    read("get of another", rows.get("ann").after(last).await.map(drop), false).await;
    read("list", rows.list().after(last).await.map(drop), true).await;
    read("until", running.until(last).await, true).await;
    read("incomplete", rows.incomplete().await.map(drop), false).await;
    read("status", operator.status().await.map(drop), false).await;
    read("first", waiting.first().await.map(drop), false).await;
    read("compare", operator.compare("sum@5").await.map(drop), false).await;
    // It fails again, with those behind it: the node tries a thousand of them together, and fewer, until it finds the first.
    let again = waiting.retry("bob").await;
    assert!(matches!(again, Err(StoreError::Parked { .. })), "{again:?}");
    letters.store(0, SeqCst);
    let again = Runner::new(&store).read_model::<Sum5>().lease(LEASE).start();
    again.stop().await;
    read("another node", Ok(()), false).await;
    BAD5.store(0, SeqCst);
    assert_eq!(waiting.retry_all().await?, (1, 0));
    assert_eq!(rows.get("bob").after(last).await?.map(|row| row.sum), Some(7.0 + BEHIND as f64));
    assert!(waiting.list().await?.is_empty());
    running.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_dead_letter_of_a_later_release_holds_up_no_other_processor() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let last = deposit(store, "ann", 1).await?;
    let letters = eventstore_core::engine::LETTERS;
    world.inner.create(&letters).await?;
    let row = serde_json::json!({
        "projection": "turnover@1", "of": "in", "whole_stream": false, "position": 1, "event": uuid::Uuid::now_v7(),
        "stream": "account-ann", "version": 1, "name": "account.deposited", "error": "why", "attempts": null,
        "parked_at": world.inner.now(), "retry_at": null, "skipped": null,
    });
    let mut transaction = world.inner.begin().await?;
    let key = "turnover@1/key/00000000000000000000000000000000/00000000000000000001/x".to_owned();
    let upserts = vec![(key, serde_json::value::to_raw_value(&row)?)];
    transaction.write(eventstore::Changes { table: letters, upserts, deletes: vec![] }).await?;
    transaction.commit().await?;
    let runner = Runner::new(store).read_model::<Turnover>().retry_at_start().read_model::<Balance>();
    let running = runner.lease(LEASE).start();
    let row = store.read_model::<Balance>().get("ann").after(last).within(Duration::from_secs(10)).await?;
    assert_eq!(row.map(|row| row.balance), Some(1));
    // The operator is told which one cannot be read, and how all others are.
    let status = Processors::new(store).status().await?;
    let told = |name: &str| {
        let status = status.iter().find(|status| status.name == name)?;
        Some(status.error.as_ref().map(|error| error.to_string().contains("dead_letters")))
    };
    assert_eq!((told("turnover@1"), told("balance@1")), (Some(Some(true)), Some(None)), "{status:?}");
    running.stop().await;
    Ok(())
}
