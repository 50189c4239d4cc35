//! Shards that are split and joined while events come in.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use eventstore::{
    Checkpoint, EventStore, Expected, Id, Invalid, Position, Processors, Query, Read, RunReadModels, Runner, Shard,
    Store, StoreError,
};
use futures::TryStreamExt;

use super::{
    account::{AccountEvent::*, *},
    balances::*,
    world,
};

type Any = Box<dyn std::error::Error>;

/// What the bodies in the log come to, without the library: the balance of each account, and what went in and out.
pub async fn folded(store: &dyn EventStore) -> (BTreeMap<String, i64>, BTreeMap<String, i64>) {
    let (mut balances, mut turnover) = (BTreeMap::new(), BTreeMap::new());
    let read = Read { query: Query::all(), ..Read::default() };
    let log: Vec<_> = store.read(read).await.unwrap().events.try_collect().await.unwrap();
    for event in log {
        let body: serde_json::Value = serde_json::from_slice(&event.data.body).unwrap();
        let amount = body["amount"].as_i64();
        let (sign, direction) = match &*event.data.name {
            "account.opened" => (0, None),
            "account.deposited" => (1, Some("in")),
            "account.withdrawn" => (-1, Some("out")),
            other => panic!("{other}"),
        };
        *balances.entry(event.stream.key().to_owned()).or_default() += sign * amount.unwrap_or_default();
        for key in direction.into_iter().flat_map(|direction| [direction, "all"]) {
            *turnover.entry(key.to_owned()).or_default() += amount.unwrap_or_default();
        }
    }
    (balances, turnover)
}

/// The same, from the tables.
pub async fn tabled(store: &Store) -> (BTreeMap<String, i64>, BTreeMap<String, i64>) {
    let balances = store.read_model::<Balance>().list().await.unwrap();
    let turnover = store.read_model::<Turnover>().list().await.unwrap();
    (
        balances.into_iter().map(|(key, row)| (key, row.balance)).collect(),
        turnover.into_iter().map(|(key, row)| (key, row.total)).collect(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_shards_are_split_and_joined_under_load_and_each_event_counts_once() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let writing = AtomicBool::new(true);
    let write = async |writer: usize| {
        for n in 0.. {
            if !writing.load(Ordering::SeqCst) {
                break;
            }
            let id = Id::<Account>::from(format!("A{}", (n * 7 + writer) % 40));
            let more = [Opened { owner: "x".into() }, Deposited { amount: n as i64 }, Withdrawn { amount: 1 }];
            store.append(&id, Expected::Any, more).await?;
            tokio::task::yield_now().await;
        }
        Ok::<_, Any>(())
    };
    let start = || {
        let runner = Runner::new(store).lease(Duration::from_millis(500));
        runner.read_model::<Balance>().batch(40).read_model::<Turnover>().batch(25).start()
    };
    let change = async {
        let (one, other) = (start(), start());
        let mut apart = 0;
        for shards in [8, 3, 1, 5, 2] {
            let head = store.head().await?;
            one.until(Position(head.0 + 50)).await?;
            for name in ["balance@1", "turnover@1"] {
                let mut there = world.inner.shards(Some(name)).await?;
                for _ in 0..200 {
                    if there.len() == 1 || there.iter().any(|(_, at)| at.position != there[0].1.position) {
                        break;
                    }
                    tokio::task::yield_now().await;
                    there = world.inner.shards(Some(name)).await?;
                }
                apart += usize::from(there.iter().any(|(_, at)| at.position != there[0].1.position));
                other.reshard(name, shards).await?;
                let there = world.inner.shards(Some(name)).await?;
                assert_eq!(there.into_iter().map(|(shard, _)| shard).collect::<Vec<_>>(), Shard::parts(name, shards));
            }
        }
        writing.store(false, Ordering::SeqCst);
        assert!(apart > 0, "all were always at one position: nothing was tried");
        Ok::<_, Any>((one, other))
    };
    let (changed, a, b) = futures::join!(change, write(0), write(3));
    a?;
    b?;
    let (one, other) = changed?;
    one.until(store.head().await?).await?;
    one.stop().await;
    other.stop().await;
    assert_eq!(tabled(store).await, folded(&*world.inner).await);
    Ok(())
}

#[tokio::test]
async fn p6_shards_apart_are_joined_by_those_who_run_them_or_not_at_all() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).read_model::<Balance>().start();
    let ann = Id::<Account>::from("ann"); // slot 712, in the second half
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let mut last = Position(0);
    for amount in 1..=4 {
        last = store.execute(&ann, Deposit { amount }).await?.position;
    }
    runner.until(last).await?;
    let before = store.execute(&ann, Deposit { amount: 5 }).await?.position;
    runner.until(before).await?;
    let projections = eventstore::Processors::new(store);
    runner.stop().await;
    // Nobody runs it, and nobody needs to.
    projections.reshard("balance", 2).await?;
    let log: Vec<_> =
        world.inner.read(Read { query: Query::all(), ..Read::default() }).await?.events.try_collect().await?;
    let later = store.execute(&ann, Deposit { amount: 6 }).await?;
    // The first half hears of none of these events: it may be further.
    let halves = Shard::parts("balance@1", 2);
    let mut transaction = world.inner.begin().await?;
    transaction.lock(&halves[0]).await?;
    transaction.advance(&halves[0], later.position, Some(later.events[0].id)).await?;
    transaction.commit().await?;
    let at = |position: Position, event| Checkpoint { position, event: Some(event), epoch: 3, owner: None };
    let there = [at(later.position, later.events[0].id), at(before, log.last().expect("events").id)];
    let unowned = |shards: Vec<(Shard, Checkpoint)>| {
        let epoch = shards[0].1.epoch;
        shards.into_iter().map(|(_, at)| Checkpoint { epoch: at.epoch - epoch + 3, ..at }).collect::<Vec<_>>()
    };
    assert_eq!(unowned(world.inner.shards(Some("balance@1")).await?), there);

    let refused = projections.reshard("balance", 1).await;
    let why = "`balance@1` has only reached position 6, not 7: no node runs it, and its shards are at different positions: \
               start one first";
    assert!(matches!(refused, Err(StoreError::Behind { .. })));
    assert_eq!(refused.err().map(|error| error.to_string()).as_deref(), Some(why));
    assert_eq!(unowned(world.inner.shards(Some("balance@1")).await?), there, "as it was");
    projections.pause("balance").await?;
    let refused = projections.reshard("balance", 1).await.err().map(|error| error.to_string());
    assert_eq!(
        refused,
        Some(why.replace("no node runs it", "it is paused").replace("start one first", "resume it first"))
    );
    for none in [0, 1025] {
        assert!(matches!(projections.reshard("balance", none).await, Err(StoreError::Invalid(Invalid::Request(_)))));
    }

    let runner = Runner::new(store).read_model::<Balance>().start();
    projections.resume("balance").await?;
    projections.reshard("balance", 1).await?;
    runner.until(later.position).await?;
    let last = store.execute(&ann, Deposit { amount: 7 }).await?;
    assert_eq!(store.read_model::<Balance>().get(&ann).after(last.position).await?.map(|row| row.balance), Some(28));
    runner.stop().await;
    Ok(())
}

/// A processor whose first node has not made its shards yet is waited for; one that no node runs is told.
#[tokio::test]
async fn p6_a_reshard_waits_for_the_node_that_makes_the_first_shards() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).read_model::<Balance>().start();
    runner.until(Position(0)).await?;
    while world.inner.shards(Some("balance@1")).await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    runner.stop().await;
    let mut transaction = world.inner.begin().await?;
    transaction.lock_projection("balance@1").await?;
    transaction.put_shards("balance@1", vec![]).await?;
    transaction.commit().await?;

    let operator = Processors::new(store);
    let refused = operator.reshard("balance@1", 4).await;
    let Err(StoreError::Behind { reason: Some(reason), .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.to_string().contains("no node has begun to run it"), "{reason}");

    let start = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Runner::new(store).read_model::<Balance>().start()
    };
    let (resharded, runner) = tokio::join!(operator.reshard("balance@1", 4), start);
    resharded?;
    assert_eq!(world.inner.shards(Some("balance@1")).await?.len(), 4);
    runner.stop().await;

    // On a new log, the store does not even know the name.
    let store = &self::world().await.store;
    let start = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Runner::new(store).read_model::<Balance>().start()
    };
    let operator = Processors::new(store);
    let (resharded, runner) = tokio::join!(operator.reshard("balance", 4), start);
    resharded?;
    assert!(matches!(operator.reshard("balances", 4).await, Err(StoreError::Invalid(_))));
    runner.stop().await;
    Ok(())
}
