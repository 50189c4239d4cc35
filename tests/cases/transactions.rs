//! Transactions of one's own: both, or neither.

use eventstore::{CommandError, Expected, Id, Invalid, Position, RunReadModels, Runner, StoreError, Version};
use futures::TryStreamExt;
use uuid::Uuid;

use crate::{
    account::{Account, AccountEvent, *},
    cases::{balances::*, world},
};

type Any = Box<dyn std::error::Error>;

#[tokio::test]
async fn a2_what_a_transaction_appends_is_there_when_it_is_committed() -> Result<(), Any> {
    let world = world().await;
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    let tx = world.store.begin().await?;
    tx.execute(&ann, Open { owner: "Ann".into() }).by("teller").await?;
    let deposited = tx.execute(&ann, Deposit { amount: 5 }).await?;
    assert_eq!((deposited.state.balance, deposited.version, deposited.position), (5, Version(2), Position(2)));
    tx.append(&bob, Expected::Version(Version(0)), [AccountEvent::Opened { owner: "Bob".into() }]).await?;
    // It sees what it has done, and nobody else does.
    assert_eq!(tx.load(&ann).await?.balance, 5);
    assert_eq!(tx.read().raw().try_collect::<Vec<_>>().await?.len(), 3);
    assert_eq!(tx.read().backwards().limit(1).raw().try_collect::<Vec<_>>().await?[0].stream, bob);
    assert_eq!(world.store.load(&ann).await?.version, Version(0));
    assert_eq!(world.store.head().await?, Position(0));
    tx.commit().await?;
    assert_eq!(world.store.load(&ann).await?.balance, 5);
    assert_eq!(world.store.head().await?, Position(3));
    Ok(())
}

#[tokio::test]
async fn a2_what_is_rolled_back_or_dropped_was_never_there() -> Result<(), Any> {
    let world = world().await;
    let ann = Id::<Account>::from("ann");
    for rolled_back in [true, false] {
        let tx = world.store.begin().await?;
        tx.execute(&ann, Open { owner: "Ann".into() }).await?;
        if rolled_back { tx.rollback().await? } else { drop(tx) }
    }
    let opened = world.store.execute(&ann, Open { owner: "Ann".into() }).await?;
    assert_eq!((opened.position, opened.version), (Position(1), Version(1)));
    Ok(())
}

#[tokio::test]
async fn c1_a_command_in_a_transaction_is_recorded_once() -> Result<(), Any> {
    let world = world().await;
    let (ann, id) = (Id::<Account>::from("ann"), Uuid::now_v7());
    world.store.execute(&ann, Open { owner: "Ann".into() }).await?;
    for attempt in 0..2 {
        let tx = world.store.begin().await?;
        for _ in 0..2 {
            let done = tx.execute(&ann, Deposit { amount: 5 }).command_id(id).await?;
            assert_eq!((done.state.balance, done.position), (5, Position(2)), "attempt {attempt}");
        }
        tx.commit().await?;
    }
    assert_eq!(world.store.load(&ann).await?.balance, 5);
    Ok(())
}

#[tokio::test]
async fn a4_a_refusal_leaves_the_transaction_as_it_was() -> Result<(), Any> {
    let world = world().await;
    let ann = Id::<Account>::from("ann");
    let tx = world.store.begin().await?;
    tx.execute(&ann, Open { owner: "Ann".into() }).await?;
    let refused = tx.execute(&ann, Withdraw { amount: 1 }).await;
    assert!(matches!(refused, Err(CommandError::Rejected(_))), "{refused:?}");
    let event = AccountEvent::Deposited { amount: 1 };
    let conflict = tx.append(&ann, Expected::Version(Version(7)), [event]).await;
    assert!(matches!(conflict, Err(StoreError::Conflict(_))), "{conflict:?}");
    let stale = tx.execute(&ann, Deposit { amount: 1 }).expecting(Version(0)).await;
    let Err(CommandError::Conflict(conflict)) = stale else { panic!("{stale:?}") };
    assert_eq!(conflict.between, ["account.opened".into()]);
    tx.commit().await?;
    assert_eq!(world.store.load(&ann).await?.version, Version(1));
    Ok(())
}

#[tokio::test]
async fn what_a_transaction_cannot_do_is_a_typed_error() -> Result<(), Any> {
    let world = world().await;
    let tx = world.store.begin().await?;
    let within = tx.begin().await.err();
    assert!(matches!(within, Some(StoreError::Invalid(Invalid::Request(_)))), "{within:?}");
    let connection = tx.connection::<String>().await.err();
    assert!(matches!(connection, Some(StoreError::Invalid(Invalid::Request(_)))), "{connection:?}");
    let store = (*tx).clone();
    tx.commit().await?;
    let over = store.load(&Id::<Account>::from("ann")).await.err();
    assert!(matches!(over, Some(StoreError::Invalid(Invalid::Request(_)))), "{over:?}");
    Ok(())
}

/// Finding B9: a read of a row in a transaction, before any node has built the table, is no failure of the transaction.
#[tokio::test]
async fn a4_a_read_of_a_table_that_is_not_there_leaves_the_transaction_as_it_was() -> Result<(), Any> {
    let world = world().await;
    let ann = Id::<Account>::from("ann");
    let tx = world.store.begin().await?;
    tx.execute(&ann, Open { owner: "Ann".into() }).await?;
    for _ in 0..2 {
        let missing = tx.read_model::<Balance>().get(&ann).await;
        assert!(matches!(missing, Err(StoreError::NotBuilt { .. })), "{missing:?}");
        let missing = tx.read_model::<Balance>().list().await;
        assert!(matches!(missing, Err(StoreError::NotBuilt { .. })), "{missing:?}");
    }
    tx.execute(&ann, Deposit { amount: 5 }).await?;
    tx.commit().await?;
    assert_eq!(world.store.load(&ann).await?.balance, 5);
    // With the table there, the row is read.
    let runner = Runner::new(&world.store).read_model::<Balance>().start();
    runner.until(Position(2)).await?;
    runner.stop().await;
    assert!(world.store.read_model::<Balance>().get(&ann).after(Position(2)).await?.is_some());
    assert!(world.store.read_model::<Balance>().get(&ann).await?.is_some());
    let tx = world.store.begin().await?;
    assert_eq!(tx.read_model::<Balance>().get(&ann).await?.map(|row| row.balance), Some(5));
    tx.execute(&ann, Deposit { amount: 1 }).await?;
    tx.commit().await?;
    assert_eq!(world.store.load(&ann).await?.balance, 6);
    Ok(())
}
