//! Positions that are not of this log: beyond its end, or in a token of another log.

use eventstore::{Expected, Position, StoreError, Token, Version, prelude::*};

use super::{
    account::{AccountEvent::*, *},
    campus::*,
    world,
};

type Any = Box<dyn std::error::Error>;

fn forked<T: std::fmt::Debug>(result: Result<T, StoreError>, beyond: u64) {
    let forked = matches!(result, Err(StoreError::Forked { position, event: None }) if position == Position(beyond));
    assert!(forked, "{beyond}: {result:?}");
}

fn store<T, R: std::fmt::Debug>(result: Result<T, CommandError<R>>) -> Result<(), StoreError> {
    result.map(drop).map_err(|error| match error {
        CommandError::Store(error) => error,
        CommandError::Conflict(conflict) => conflict.into(),
        CommandError::Rejected(why) => panic!("{why:?}"),
    })
}

#[tokio::test]
async fn a14_what_was_seen_beyond_the_end_of_the_log_records_nothing() -> Result<(), Any> {
    let world = world().await;
    let (log, ann, rust) = (&world.store, Id::<Account>::from("ann"), Id::<Course>::from("rust"));
    log.execute(&ann, Open { owner: "Ann".into() }).await?;
    log.execute(&rust, OpenCourse { seats: 3 }).await?;
    log.execute(Id::<Student>::from("bob"), Join).await?;
    let deposit = || log.execute(&ann, Deposit { amount: 1 });
    for beyond in [4, 9_999, u64::MAX] {
        forked(store(deposit().expecting_position(Position(beyond)).await), beyond);
        // By tag, over several, over all of a kind: the same.
        let both = (&rust, &Id::<Student>::from("bob"));
        forked(store(log.execute(both, Enrol).expecting_position(Position(beyond)).await), beyond);
        let tx = log.begin().await?;
        forked(store(tx.execute(&ann, Deposit { amount: 1 }).expecting_position(Position(beyond)).await), beyond);
        // Nothing was done, so the transaction goes on; and sees what it appends itself.
        let own = tx.execute(&ann, Deposit { amount: 1 }).await?;
        assert_eq!(own.position, Position(4));
        tx.execute(&ann, Deposit { amount: 1 }).expecting_position(own.position).await?;
        tx.rollback().await?;
    }
    assert_eq!((log.head().await?, log.load(&ann).await?.version), (Position(3), Version(1)));
    // Further than the events of the state, and in the log.
    let done = deposit().expecting_position(Position(3)).await?;
    assert_eq!(done.position, Position(4));
    assert_eq!(log.load(every::<Enrolments>()).await?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn a14_a_token_of_another_log_or_history_is_refused() -> Result<(), Any> {
    let (here, there) = (world().await, world().await);
    let (here, there) = (&here.store, &there.store);
    let ann = Id::<Account>::from("ann");
    for store in [here, there] {
        store.append(&ann, Expected::Any, [Deposited { amount: 1 }, Deposited { amount: 2 }]).await?;
    }
    assert_ne!(here.identity().await?.id, there.identity().await?.id);
    let token = here.token(Position(2)).await?;
    // Over a header, and back.
    let token: Token = token.to_string().parse()?;
    assert_eq!(here.position_of(&token).await?, Position(2));
    forked(there.position_of(&token).await, 2);
    for epoch in [0, token.epoch + 1] {
        forked(here.position_of(&Token { epoch, ..token }).await, 2);
    }
    forked(here.position_of(&Token { position: Position(3), ..token }).await, 3);
    assert_eq!(here.position_of(&Token { position: Position(0), ..token }).await?, Position(0));
    // In a transaction: what it has appended itself is there.
    let tx = here.begin().await?;
    let own = tx.append(&ann, Expected::Any, [Deposited { amount: 3 }]).await?;
    let own = tx.token(own.last).await?;
    assert_eq!(tx.position_of(&own).await?, Position(3));
    tx.rollback().await?;
    forked(here.position_of(&own).await, 3);
    Ok(())
}
