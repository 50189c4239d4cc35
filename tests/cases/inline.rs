//! Read models kept in the transaction of each append: whoever reads after it sees it, and nobody counts twice.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    task::Poll,
};

use eventstore::{
    Append, CommandError, Expected, Id, Inline, Position, ReadModel, RunReadModels, Runner, Store, StoreError,
    StreamId, Write,
    prelude::{Project, Recorded, Row},
};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Between, Counts,
    account::{AccountEvent::*, *},
    balances::*,
    projections::{Owner, Ratio},
    rebuild, world,
};

type Any = Box<dyn std::error::Error>;

/// What a fold of the whole log says, by hand.
async fn same_as_the_log<M: ReadModel + PartialEq + std::fmt::Debug>(store: &Store) -> Result<(), Any> {
    let rows = store.read_model::<M>();
    assert_eq!(rows.list().await?, rows.live().list().await?);
    Ok(())
}

#[tokio::test]
async fn p1_inline_rows_are_there_when_the_append_is() -> Result<(), Any> {
    let world = world().await;
    let store = world.store.clone().with_inline::<Balance>().with_inline::<Turnover>();
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    let balances = store.read_model::<Balance>();
    assert_eq!(balances.list().await?, [], "the table is made when it is first asked for");
    let balance = async |id: &Id<Account>| Ok::<_, StoreError>(balances.get(id).await?.map(|row| row.balance));

    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    assert_eq!(balance(&ann).await?, Some(0));
    if let Some(columns) = rebuild::by_sql(&world).await? {
        assert_eq!(columns, ["balance", "owner"]);
    }
    let written = store
        .append(&ann, Expected::Any, [Deposited { amount: 1 }, Deposited { amount: 2 }])
        .and(&bob, Expected::Any, [Opened { owner: "Bob".into() }, Deposited { amount: 4 }])
        .and(&ann, Expected::Any, [Withdrawn { amount: 2 }])
        .await?;
    assert_eq!((balance(&ann).await?, balance(&bob).await?), (Some(1), Some(4)));
    assert_eq!(store.read_model::<Turnover>().get("all").await?, Some(Turnover { total: 9 }));
    assert_eq!(world.inner.checkpoint("balance@1").await?, written.last);
    assert_eq!(balances.get(&ann).after(written.last).await?.map(|row| row.balance), Some(1));

    // In a transaction of one's own, seen in it, and gone with it.
    let tx = store.begin().await?;
    tx.execute(&ann, Deposit { amount: 10 }).await?;
    tx.execute(&bob, Deposit { amount: 10 }).await?;
    assert_eq!(tx.read_model::<Balance>().get(&ann).await?.map(|row| row.balance), Some(11));
    tx.commit().await?;
    assert_eq!((balance(&ann).await?, balance(&bob).await?), (Some(11), Some(14)));
    let tx = store.begin().await?;
    tx.execute(&ann, Deposit { amount: 100 }).await?;
    tx.rollback().await?;
    assert_eq!(balance(&ann).await?, Some(11));

    // What cannot be recorded changes nothing.
    assert!(matches!(store.execute(&ann, Withdraw { amount: 99 }).await, Err(CommandError::Rejected(_))));
    let conflict = store.append(&ann, Expected::Exists, [Deposited { amount: 7 }]).and(
        &bob,
        Expected::Version(eventstore::Version(0)),
        [Deposited { amount: 7 }],
    );
    assert!(conflict.await.is_err_and(|error| error.is_conflict()));
    store.execute(&bob, Withdraw { amount: 14 }).await?;
    store.execute(&bob, Close).await?;
    assert_eq!(balances.get(&bob).await?, None, "deleted rows are");
    same_as_the_log::<Balance>(&store).await?;
    same_as_the_log::<Turnover>(&store).await
}

#[tokio::test]
async fn p1_an_append_that_was_recorded_before_is_counted_once() -> Result<(), Any> {
    let world = world().await;
    let store = world.store.clone().with_inline::<Balance>();
    let (ann, command) = (Id::<Account>::from("ann"), Uuid::now_v7());
    for _ in 0..3 {
        store.append(&ann, Expected::Any, [Deposited { amount: 5 }]).command_id(command).await?;
        let tx = store.begin().await?;
        tx.append(&ann, Expected::Any, [Deposited { amount: 5 }]).command_id(command).await?;
        tx.commit().await?;
    }
    assert_eq!(store.read_model::<Balance>().get(&ann).await?.map(|row| row.balance), Some(5));
    assert_eq!(store.head().await?, Position(1));
    Ok(())
}

/// Panics on what it does not like.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
pub struct Picky {
    pub events: u32,
}

impl Project for Picky {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        assert!(event.data != Deposited { amount: 13 }, "no thirteen");
        row.events += 1;
    }
}

#[tokio::test]
async fn an_event_that_inline_rows_cannot_take_in_is_not_recorded() -> Result<(), Any> {
    let world = world().await;
    let store = world.store.clone().with_inline::<Picky>().with_inline::<Ratio>().with_inline::<Owner>();
    let (ann, eve) = (Id::<Account>::from("ann"), Id::<Account>::from("eve"));
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    store.execute(&ann, Deposit { amount: 2 }).await?;
    let refused = async |done: Result<(), CommandError<AccountError>>| {
        let Err(CommandError::Store(StoreError::NotProjected { projection, reason })) = done else {
            panic!("{done:?}")
        };
        assert_eq!(store.head().await.unwrap(), Position(2));
        assert_eq!(world.inner.checkpoint("picky@1").await.unwrap(), Position(2));
        assert_eq!(store.read_model::<Picky>().get("ann").await.unwrap(), Some(Picky { events: 2 }));
        assert_eq!(store.read_model::<Ratio>().get("ann").await.unwrap(), Some(Ratio { value: 0.5 }));
        format!("{projection}: {reason}")
    };
    let panicked = refused(store.execute(&ann, Deposit { amount: 13 }).await.map(drop)).await;
    let event = "event 3 of stream account-ann (`account.deposited`, position 3)";
    assert_eq!(panicked, format!("picky@1: {event}: it panicked: no thirteen"));
    let unfit = refused(store.execute(&ann, Deposit { amount: 0 }).await.map(drop)).await;
    assert!(unfit.starts_with(&format!("ratio@1: {event}: cannot write or read a row of `ratio@1`")), "{unfit}");
    let no_key = refused(store.execute(&eve, Open { owner: "kk".into() }).await.map(drop)).await;
    assert!(no_key.ends_with("row key `` is empty"), "{no_key}");

    // In a transaction, nothing of it is kept, whoever commits it.
    let tx = store.begin().await?;
    tx.execute(&ann, Deposit { amount: 1 }).await?;
    assert!(tx.execute(&ann, Deposit { amount: 13 }).await.is_err());
    assert!(matches!(tx.commit().await, Err(StoreError::Invalid(_))));
    assert_eq!(store.head().await?, Position(2));

    // The others go on.
    store.execute(&ann, Deposit { amount: 4 }).await?;
    assert_eq!(store.read_model::<Ratio>().get(&ann).await?, Some(Ratio { value: 0.75 }));
    Ok(())
}

#[tokio::test]
async fn p1_what_others_appended_is_taken_in_first() -> Result<(), Any> {
    let world = world().await;
    let ids: Vec<_> = (0..5).map(|n| Id::<Account>::from(format!("A{n}"))).collect();
    let others = async |events: i64| -> Result<(), Any> {
        for id in &ids {
            world.store.append(id, Expected::Any, (0..events).map(|amount| Deposited { amount })).await?;
        }
        Ok(())
    };
    let store = world.store.clone().with_inline::<Balance>().with_inline::<Turnover>();
    for gap in [700, 1, 500, 30] {
        others(gap).await?;
        let last = store.append(&ids[0], Expected::Any, [Withdrawn { amount: 1 }]).await?.last;
        assert_eq!(world.inner.checkpoint("balance@1").await?, last);
        same_as_the_log::<Balance>(&store).await?;
        same_as_the_log::<Turnover>(&store).await?;
        // In a transaction, which others' appends were before.
        others(3).await?;
        let tx = store.begin().await?;
        tx.append(&ids[0], Expected::Any, [Withdrawn { amount: 1 }]).await?;
        tx.append(&ids[1], Expected::Any, [Withdrawn { amount: 1 }]).await?;
        tx.commit().await?;
        same_as_the_log::<Balance>(&store).await?;
    }
    Ok(())
}

#[tokio::test]
async fn p3_what_others_appended_and_cannot_be_taken_in_is_named_until_a_runner_parks_it() -> Result<(), Any> {
    let world = world().await;
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    let store = world.store.clone().with_inline::<Ratio>();
    let refused = async |position: u64| {
        let refused = store.append(&ann, Expected::Any, [Deposited { amount: 2 }]).await;
        let Err(StoreError::Stopped { projection, reason }) = refused else { panic!("{refused:?}") };
        assert_eq!(projection, "ratio@1");
        let event = format!("(`account.deposited`, position {position}): cannot write");
        assert!(reason.to_string().contains(&event), "{reason}");
    };
    // Before the first append of its own, and in the middle.
    world.store.append(&bob, Expected::Any, [Deposited { amount: 1 }, Deposited { amount: 0 }]).await?;
    refused(2).await;
    assert_eq!(store.head().await?, Position(2), "nothing was recorded");
    let runner = Runner::new(&store).read_model::<Ratio>().start();
    super::parked::reached(&runner, Position(2)).await?;
    runner.stop().await;
    store.append(&ann, Expected::Any, [Deposited { amount: 2 }]).await?;
    let waits = store.append(&bob, Expected::Any, [Deposited { amount: 4 }]).await?;
    let ratios = store.read_model::<Ratio>();
    assert_eq!(ratios.get(&ann).await?, Some(Ratio { value: 0.5 }));
    assert_eq!(ratios.get(&bob).await?, Some(Ratio { value: 1.0 }), "it waits behind what is parked");
    assert!(matches!(ratios.get(&bob).after(waits.last).await, Err(StoreError::Parked { .. })));

    let runner = Runner::new(&store).read_model::<Ratio>().start();
    let letters = runner.dead_letters("ratio");
    assert_eq!(letters.list().await?.iter().map(|letter| letter.position.0).collect::<Vec<_>>(), [2, 4]);
    letters.skip("bob", "nobody deposits nothing").await?;
    runner.stop().await;
    assert_eq!(ratios.get(&bob).await?, Some(Ratio { value: 1.25 }));
    store.append(&bob, Expected::Any, [Deposited { amount: 2 }]).await?;
    assert_eq!(ratios.get(&bob).await?, Some(Ratio { value: 1.75 }));

    world.store.append(&bob, Expected::Any, [Deposited { amount: 0 }]).await?;
    refused(6).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_writers_with_and_without_inline_rows_and_runners_count_each_event_once() -> Result<(), Any> {
    let world = world().await;
    let ids: Vec<_> = (0..4).map(|n| Id::<Account>::from(format!("A{n}"))).collect();
    // As two processes and a third that knows nothing of it; said in another order, locked in the same.
    let stores = [
        world.store.clone().with_inline::<Balance>().with_inline::<Turnover>(),
        Store::from(world.inner.clone()).with_inline::<Turnover>().with_inline::<Balance>(),
        Store::from(world.inner.clone()),
    ];
    let writing = AtomicBool::new(true);
    let write = async {
        let writers = stores.iter().enumerate().flat_map(|(n, store)| {
            let ids = &ids;
            (0..2).map(move |m| async move {
                for turn in 0..20 {
                    let id = &ids[(n + m + turn) % 4];
                    let events = [Deposited { amount: turn as i64 }, Withdrawn { amount: 1 }];
                    if turn % 5 == 3 {
                        let tx = store.begin().await?;
                        tx.append(id, Expected::Any, events).await?;
                        tx.commit().await?;
                    } else {
                        store.append(id, Expected::Any, events).await?;
                    }
                }
                Ok::<_, StoreError>(())
            })
        });
        let written = try_join_all(writers).await;
        writing.store(false, Ordering::SeqCst);
        written
    };
    let run = async {
        while writing.load(Ordering::SeqCst) {
            let runner = Runner::new(&stores[2]).read_model::<Balance>().read_model::<Turnover>().shards(3).start();
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            runner.stop().await;
        }
    };
    let (written, ()) = futures::join!(write, run);
    written?;
    stores[1].append(&ids[0], Expected::Any, [Deposited { amount: 1_000 }]).await?;
    assert_eq!(stores[1].head().await?, Position(241));
    same_as_the_log::<Balance>(&stores[0]).await?;
    same_as_the_log::<Turnover>(&stores[0]).await?;
    let (ins, outs) = (2 * 3 * (0..20).sum::<i64>() + 1_000, 2 * 3 * 20);
    assert_eq!(stores[2].read_model::<Turnover>().get("all").await?, Some(Turnover { total: ins + outs }));
    Ok(())
}

#[tokio::test]
async fn of_appends_recorded_together_only_the_one_that_is_to_blame_fails() -> Result<(), Any> {
    let world = world().await;
    let store = world.store.clone().with_inline::<Picky>();
    let ids: Vec<_> = (0..30).map(|n| Id::<Account>::from(format!("A{n}"))).collect();
    let all = ids.iter().enumerate().map(|(n, id)| {
        let (amount, expected) = (if n == 17 { 13 } else { 1 }, if n == 20 { Expected::Exists } else { Expected::Any });
        store.append(id, expected, [Deposited { amount }]).into_future()
    });
    let results = futures::future::join_all(all).await;
    for (n, result) in results.iter().enumerate() {
        match n {
            17 => assert!(matches!(result, Err(StoreError::NotProjected { .. })), "{result:?}"),
            20 => assert!(result.as_ref().is_err_and(StoreError::is_conflict), "{result:?}"),
            _ => assert!(result.is_ok(), "{result:?}"),
        }
    }
    assert_eq!(store.head().await?, Position(28));
    assert_eq!(store.read_model::<Picky>().list().await?.len(), 28);
    same_as_the_log::<Picky>(&store).await
}

#[tokio::test]
async fn a8_an_inline_append_dropped_at_any_await_keeps_rows_and_log_together() -> Result<(), Any> {
    let world = world().await;
    let store = world.store.clone().with_inline::<Balance>();
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    for polls in 1..30 {
        // The first takes the others' appends with it, and is dropped after so many steps.
        let mut dropped = store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).into_future();
        let mut kept = store.append(&bob, Expected::Any, [Deposited { amount: 1 }]).into_future();
        let mut steps = 0;
        let first = poll_fn(|context| {
            let done = dropped.as_mut().poll(context).is_ready();
            steps += 1;
            match kept.as_mut().poll(context) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending if done || steps == polls => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        let first = first.await;
        drop(dropped);
        match first {
            Some(result) => result?,
            None => kept.await?,
        };
    }
    assert_eq!(store.read_model::<Balance>().get(&bob).await?.map(|row| row.balance), Some(29));
    same_as_the_log::<Balance>(&store).await
}

#[tokio::test]
async fn an_inline_append_is_one_read_and_one_write_of_rows() -> Result<(), Any> {
    let world = world().await;
    let counting = Between::new(&world.inner);
    let counts = counting.counts();
    let store = Store::from(counting).with_inline::<Balance>();
    let stream = StreamId::new("account", "ann");
    for amount in 0..3 {
        store.append(&stream, Expected::Any, (0..100).map(|_| Deposited { amount })).await?;
    }
    assert_eq!(*counts.lock().unwrap(), Counts { reads_of_rows: 3, writes_of_rows: 3 });
    // What concerns no row moves the checkpoint only.
    let write = Write { stream, expected: Expected::Any, events: vec![super::raw("something.else", b"{}")] };
    let written = store.as_ref().append(Append { writes: vec![write], ..Append::default() }).await?;
    assert_eq!(*counts.lock().unwrap(), Counts { reads_of_rows: 3, writes_of_rows: 3 });
    assert_eq!(world.inner.checkpoint("balance@1").await?, written.last);
    Ok(())
}
