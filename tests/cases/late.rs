//! Commits whose answers are lost on the way, and that are done afterwards: when whoever asked has already looked.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use eventstore::{Expected, Id, Processors, Runner, Store, Version, prelude::*};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    Between, World,
    account::{AccountEvent::*, *},
    world,
};

type Any = Box<dyn std::error::Error>;

macro_rules! counting {
    ($Model:ident, $likes:ident) => {
        /// Counts, so that what is taken in twice is seen; and does not like thirteen.
        #[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
        struct $Model {
            events: u64,
            sum: i64,
        }

        static $likes: AtomicBool = AtomicBool::new(false);

        impl Project for $Model {
            type Event = AccountEvent;

            fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
                let Deposited { amount } = event.data else { return };
                assert!(amount != 13 || $likes.load(Ordering::SeqCst), "no thirteen");
                (row.events, row.sum) = (row.events + 1, row.sum + amount);
            }
        }
    };
}
counting!(Parking, PARKING_LIKES);
counting!(Retried, RETRIED_LIKES);

/// A store whose commits are done late, and not answered, while the flag is up.
fn late(world: &World) -> (Store, std::sync::Arc<AtomicBool>) {
    let between = Between::new(&world.inner);
    let late = between.late();
    (between.into(), late)
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> Result<bool, Any>) -> Result<(), Any> {
    for _ in 0..500 {
        if done().await? {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(format!("not within ten seconds: {what}").into())
}

/// The commit that parks a key is done after its shard has begun again: what comes for the key then waits, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_key_that_was_parked_by_a_late_commit_is_parked() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let first = store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    let (between, late) = late(&world);
    let runner = Runner::new(&between).read_model::<Parking>().start();
    runner.until(first.last).await?;
    late.store(true, Ordering::SeqCst);
    let bad = store.append(&ann, Expected::Any, [Deposited { amount: 13 }]).await?;
    until("it is parked", async || Ok(store.as_ref().checkpoint("parking@1").await? == bad.last)).await?;
    late.store(false, Ordering::SeqCst);
    let last = store.append(&ann, Expected::Any, [Deposited { amount: 100 }]).await?;
    super::parked::reached(&runner, last.last).await?;
    let rows = store.read_model::<Parking>();
    assert_eq!(rows.get(&ann).await?, Some(Parking { events: 1, sum: 1 }));
    let waits: Vec<_> = runner.dead_letters("parking").list().await?.iter().map(|letter| letter.version).collect();
    assert_eq!(waits, [Version(2), Version(3)]);
    PARKING_LIKES.store(true, Ordering::SeqCst);
    runner.dead_letters("parking").retry_all().await?;
    assert_eq!(rows.get(&ann).await?, Some(Parking { events: 3, sum: 114 }));
    runner.stop().await;
    Ok(())
}

/// The commit that takes in what waited is done after its shard has begun again: it is not taken in once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_p3_what_waited_and_was_taken_in_by_a_late_commit_counts_once() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let amounts = [1, 13, 100].map(|amount| Deposited { amount });
    let all = store.append(&ann, Expected::Any, amounts).await?;
    let (between, late) = late(&world);
    let runner = Runner::new(&between).read_model::<Retried>().start();
    super::parked::reached(&runner, all.last).await?;
    let letters = runner.dead_letters("retried");
    assert_eq!(letters.list().await?.len(), 2);
    RETRIED_LIKES.store(true, Ordering::SeqCst);
    late.store(true, Ordering::SeqCst);
    // Somebody else asks for it, whose own commits are answered.
    let _ = Processors::new(store).dead_letters("retried").retry_all().await;
    until("nothing waits", async || Ok(letters.list().await?.is_empty())).await?;
    sleep(Duration::from_millis(500)).await;
    late.store(false, Ordering::SeqCst);
    let next = store.append(&ann, Expected::Any, [Deposited { amount: 1_000 }]).await?;
    runner.until(next.last).await?;
    assert_eq!(store.read_model::<Retried>().get(&ann).await?, Some(Retried { events: 4, sum: 1_114 }));
    assert_eq!(letters.list().await?, []);
    runner.stop().await;
    Ok(())
}

/// Recorded, and the answer cannot be given: whoever is told of a refusal would do it again under another name.
#[tokio::test]
async fn a6_what_is_recorded_and_cannot_be_answered_is_unknown() -> Result<(), Any> {
    let world = world().await;
    let (ann, command) = (Id::<Account>::from("ann"), Uuid::now_v7());
    let deposit = async |store: &Store, executes: bool| match executes {
        true => store.execute(&ann, Deposit { amount: 5 }).command_id(command).await.map(drop).map_err(Any::from),
        false => {
            let append = store.append(&ann, Expected::Any, [Deposited { amount: 5 }]).command_id(command);
            append.await.map(drop).map_err(Any::from)
        }
    };
    world.store.execute(&ann, Open { owner: "Ann".into() }).await?;
    for executes in [true, false] {
        let between = Between::new(&world.inner);
        let (lost, ann) = (between.lost(), ann.clone());
        let store = Store::from(between.let_in(move |store| async move {
            let deposit = store.execute(&ann, Deposit { amount: 5 }).command_id(command).await;
            deposit.expect("the first attempt, whose answer is lost");
            lost.store(true, Ordering::SeqCst);
        }));
        let error = deposit(&store, executes).await.expect_err("it cannot be answered").to_string();
        assert!(error.contains("unknown"), "{error}");
    }
    let ann = world.store.load(&ann).await?;
    assert_eq!((ann.version, ann.balance), (Version(2), 5));
    Ok(())
}
