//! The end of a store; and a caller that waits for itself.

use std::time::{Duration, Instant};

use eventstore::{CommandError, Id, StoreError, Version};

use super::{account::*, world};

type Any = Box<dyn std::error::Error>;

#[tokio::test]
async fn a1_a_store_that_is_closed_has_recorded_what_was_acknowledged() -> Result<(), Any> {
    let world = world().await;
    let ann = Id::<Account>::from("ann");
    world.store.execute(&ann, Open { owner: "Ann".into() }).await?;
    world.store.close().await?;
    world.store.close().await?;
    // A store in memory has nothing to close. Of a database nothing can be used any more, and a retry does not help.
    match world.store.execute(&ann, Deposit { amount: 1 }).await {
        Ok(deposited) => assert!(world.inner.database().is::<()>() && deposited.version == Version(2)),
        Err(CommandError::Store(error @ StoreError::Denied(_))) => assert!(!error.is_retryable(), "{error}"),
        Err(error) => panic!("{error:?}"),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_an_append_that_waits_for_its_own_transaction_is_busy_after_ten_seconds() -> Result<(), Any> {
    let world = world().await;
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    let tx = world.store.begin().await?;
    tx.execute(&ann, Open { owner: "Ann".into() }).await?;
    let start = Instant::now();
    let outside = world.store.execute(&bob, Open { owner: "Bob".into() }).into_future();
    let outside = tokio::time::timeout(Duration::from_secs(60), outside).await?;
    assert!(matches!(&outside, Err(CommandError::Store(StoreError::Busy(_)))), "{outside:?}");
    assert!(start.elapsed() > Duration::from_secs(8), "{:?}", start.elapsed());
    tx.commit().await?;
    world.store.execute(&bob, Open { owner: "Bob".into() }).await?;
    assert_eq!(world.store.load(&ann).await?.version, Version(1));
    Ok(())
}
