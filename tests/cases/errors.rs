//! What an error says, and whether the same call may succeed later.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use eventstore::{Append, EventError, Expected, Id, Position, RunReadModels, Runner, StoreError, StreamId, Write};

use super::{account::*, balances::*, raw, world};

type Any = Box<dyn Error>;

/// Finding C4: a read that comes too early is one to try again (503), not a broken program (500).
#[tokio::test]
async fn p9_a_read_that_comes_too_early_is_retryable_and_waits_as_long_as_it_was_told() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let balances = store.read_model::<Balance>();
    let first = store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let not_built = balances.get(&ann).await.expect_err("nothing has built it");
    assert!(matches!(not_built, StoreError::NotBuilt { .. }) && not_built.is_retryable(), "{not_built:?}");
    let runner = Runner::new(store).read_model::<Balance>().start();
    runner.until(first.position).await?;
    runner.pause("balance@1").await?;
    let second = store.execute(&ann, Deposit { amount: 5 }).await?;
    for patience in [Duration::ZERO, Duration::from_millis(100)] {
        let start = Instant::now();
        for behind in [
            balances.get(&ann).after(second.position).within(patience).await.map(drop),
            balances.list().after(second.position).within(patience).await.map(drop),
        ] {
            let behind = behind.expect_err("it is paused");
            let StoreError::Behind { at, until, .. } = behind else { panic!("{behind:?}") };
            assert_eq!((at, until), (first.position, second.position));
            assert!(behind.is_retryable());
        }
        assert!(start.elapsed() >= patience * 2 && start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    let building = StoreError::Building { table: "balance@2".into(), at: first.position, until: second.position };
    assert!(building.is_retryable());
    runner.resume("balance@1").await?;
    let row = balances.get(&ann).after(second.position).within(Duration::from_secs(30)).await?;
    assert_eq!(row.map(|row| row.balance), Some(5));
    runner.stop().await;
    Ok(())
}

/// Finding C4: a position that is not in the log comes from another one, or from an end that was lost. No wait helps.
#[tokio::test]
async fn a_read_after_a_position_beyond_the_log_is_answered_at_once() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let runner = Runner::new(store).read_model::<Balance>().start();
    let opened = store.execute(&ann, Open { owner: "Ann".into() }).await?;
    runner.until(opened.position).await?;
    let (balances, beyond) = (store.read_model::<Balance>(), Position(999_999));
    let start = Instant::now();
    for answer in [balances.get(&ann).after(beyond).await.map(drop), balances.list().after(beyond).await.map(drop)] {
        let error = answer.expect_err("there is no such position");
        assert!(matches!(error, StoreError::Forked { position, event: None } if position == beyond), "{error:?}");
        assert!(!error.is_retryable());
        assert!(error.to_string().starts_with("position 999999 is not in this log"), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    runner.stop().await;
    Ok(())
}

/// Finding C5: the text names the reason, and the chain below it does not say it again.
#[tokio::test]
async fn p8_an_error_says_why_an_event_cannot_be_read() -> Result<(), Any> {
    let world = world().await;
    let (ann, events) = (Id::<Account>::from("ann"), vec![raw("account.opened", b"{}")]);
    let write = Write { stream: StreamId::new("account", "ann"), expected: Expected::Any, events };
    world.inner.append(Append { writes: vec![write], ..Append::default() }).await?;
    let error = world.store.load(&ann).await.expect_err("it has no owner");
    let why = "cannot read event 1 of stream account-ann: missing field `owner`";
    assert!(error.to_string().starts_with(why), "{error}");
    assert!(error.source().is_none(), "{error:?}");
    assert!(matches!(error.reason().and_then(|reason| reason.downcast_ref()), Some(EventError::Body(_))));
    Ok(())
}
