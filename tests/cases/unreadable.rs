//! Events that cannot be read: by default they stop what follows the log, by policy they are parked.

use std::sync::atomic::{AtomicBool, Ordering};

use eventstore::{
    Append, Expected, Id, Inline, Invalid, Position, Runner, Running, StoreError, StreamId, Write, prelude::*,
};
use serde::{Deserialize, Serialize};

use super::{
    World,
    account::{AccountEvent::*, *},
    balances::*,
    subscriptions::Outside,
    world,
};

type Any = Box<dyn std::error::Error>;

/// Position 3 cannot be read.
async fn unreadable(world: &World) -> Result<(), Any> {
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    world.store.append(&ann, Expected::Any, [Opened { owner: "Ann".into() }, Deposited { amount: 5 }]).await?;
    let stream = StreamId::new("account", "ann");
    let write = Write { stream, expected: Expected::Any, events: vec![super::raw("account.deposited", b"{}")] };
    world.inner.append(Append { writes: vec![write], ..Append::default() }).await?;
    let later = world.store.append(&ann, Expected::Any, [Deposited { amount: 7 }]);
    later.and(&bob, Expected::Any, [Deposited { amount: 1 }]).await?;
    Ok(())
}

async fn letters(runner: &Running, name: &str) -> Result<Vec<(String, u64)>, StoreError> {
    let letters = runner.dead_letters(name).list().await?;
    Ok(letters.into_iter().map(|letter| (letter.key, letter.position.0)).collect())
}

#[tokio::test]
async fn p8_by_policy_an_event_that_cannot_be_read_is_parked_with_those_behind_it() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    unreadable(&world).await?;
    let outside = Outside::failing(0);
    let runner = || {
        let runner = Runner::new(store).read_model::<Balance>().shards(4).park_unreadable();
        let runner = runner.read_model::<Turnover>().park_unreadable();
        runner.subscription(outside.clone()).park_unreadable().start()
    };
    let balances = store.read_model::<Balance>();
    let balance = async |key| Ok::<_, StoreError>(balances.get(key).await?.map(|row| row.balance));
    let total = async || Ok::<_, StoreError>(store.read_model::<Turnover>().get("in").await?.map(|row| row.total));
    // Started again, nothing changes.
    for _ in 0..2 {
        let runner = runner();
        super::parked::reached(&runner, Position(5)).await?;
        assert_eq!((balance("ann").await?, balance("bob").await?, total().await?), (Some(5), Some(1), Some(6)));
        assert_eq!(letters(&runner, "balance").await?, [("ann".into(), 3), ("ann".into(), 4)]);
        for name in ["turnover", "outside"] {
            assert_eq!(letters(&runner, name).await?, [("account-ann".into(), 3), ("account-ann".into(), 4)]);
        }
        let Err(StoreError::Parked { reason, .. }) = runner.settle().await else { panic!("it waits") };
        let why = "event 3 of stream account-ann (`account.deposited`, position 3): cannot read event 3 of stream";
        assert!(reason.starts_with(why), "{reason}");
        runner.stop().await;
    }
    // Tried again by a program that cannot read it either, and passed over.
    let runner = runner();
    for (name, key) in [("balance", "ann"), ("turnover", "account-ann"), ("outside", "account-ann")] {
        let letters = runner.dead_letters(name);
        assert!(matches!(letters.retry(key).await, Err(StoreError::Parked { .. })));
        letters.skip(key, "written by hand").await?;
    }
    assert_eq!((balance("ann").await?, balance("bob").await?, total().await?), (Some(12), Some(1), Some(13)));
    assert_eq!(runner.settle().await?, Position(5));
    // And what comes then waits for nothing.
    let last = store.append(Id::<Account>::from("ann"), Expected::Any, [Withdrawn { amount: 2 }]).await?;
    runner.until(last.last).await?;
    assert_eq!(balance("ann").await?, Some(10));
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn p8_where_nobody_knows_which_shards_an_unreadable_event_concerns_it_stops() -> Result<(), Any> {
    let world = world().await;
    unreadable(&world).await?;
    let runner = Runner::new(&world.store).read_model::<Turnover>().shards(2).park_unreadable().start();
    let stopped = runner.until(Position(5)).await;
    assert!(matches!(stopped, Err(StoreError::Stopped { .. })), "{stopped:?}");
    runner.stop().await;
    // Inline, too.
    let inline = world.store.clone().with_inline::<Balance>();
    let stopped = inline.append(Id::<Account>::from("ann"), Expected::Any, [Deposited { amount: 5 }]).await;
    let Err(StoreError::Stopped { reason, .. }) = stopped else { panic!("{stopped:?}") };
    assert!(reason.to_string().starts_with("event 3 of stream account-ann"), "{reason}");
    Ok(())
}

/// One row for all accounts, and one each by the whole name of its stream. Does not like thirteen.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(keys = of_all_and_stream)]
struct Amounts {
    last: i64,
    sum: i64,
}

fn of_all_and_stream(event: &Recorded<AccountEvent>) -> Vec<String> {
    vec!["all".into(), event.stream.to_string()]
}

static LIKED: AtomicBool = AtomicBool::new(false);

impl Project for Amounts {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        let Deposited { amount } = event.data else { return };
        assert!(amount != 13 || row.key() != "all" || LIKED.load(Ordering::SeqCst), "no thirteen");
        (row.last, row.sum) = (amount, row.sum + amount);
    }
}

/// What waits with its whole stream waits on for a key that is parked, in the order of the log; and nobody splits it.
#[tokio::test]
async fn p3_p6_a_stream_that_waits_is_not_split_and_goes_on_behind_its_keys() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    unreadable(&world).await?;
    let bob = Id::<Account>::from("bob");
    store.append(&bob, Expected::Any, [Deposited { amount: 13 }, Deposited { amount: 20 }]).await?;
    let ann = store.append(Id::<Account>::from("ann"), Expected::Any, [Deposited { amount: 40 }]).await?;
    let runner = Runner::new(store).read_model::<Amounts>().park_unreadable().start();
    super::parked::reached(&runner, ann.last).await?;
    let stream = |n| ("account-ann".into(), n);
    let all = |n| ("all".into(), n);
    assert_eq!(letters(&runner, "amounts").await?, [stream(3), stream(4), all(6), all(7), stream(8)]);

    let split = runner.reshard("amounts", 2).await;
    assert!(
        matches!(&split, Err(StoreError::Invalid(Invalid::Request(why))) if why.contains("account-ann")),
        "{split:?}"
    );
    // The one that cannot be read is passed over: what is behind it is taken in, but for the row that waits itself.
    runner.dead_letters("amounts").skip("account-ann", "written by hand").await?;
    let rows = store.read_model::<Amounts>();
    assert_eq!(rows.get("account-ann").await?, Some(Amounts { last: 40, sum: 52 }));
    assert_eq!(letters(&runner, "amounts").await?, [stream(3), all(4), all(6), all(7), all(8)]);
    LIKED.store(true, Ordering::SeqCst);
    assert_eq!(runner.dead_letters("amounts").retry_all().await?, (1, 0));
    assert_eq!(rows.get("all").await?, Some(Amounts { last: 40, sum: 5 + 7 + 1 + 13 + 20 + 40 }));
    runner.reshard("amounts", 2).await?;
    runner.stop().await;
    Ok(())
}
