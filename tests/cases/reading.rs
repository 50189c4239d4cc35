//! Asking read models: folded from the log as it is, in an order, and with a token that was text.

use eventstore::{Id, Invalid, Position, Runner, StoreError};

use super::{account::*, balances::*, world};

type Any = Box<dyn std::error::Error>;

#[tokio::test]
async fn live_rows_need_no_table_and_are_never_behind() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let live = store.read_model::<Balance>().live();
    for amount in 1..=3 {
        let done = store.execute(&ann, Deposit { amount }).await?;
        let balance = live.get(&ann).after(done.position).await?.map(|row| row.balance);
        assert_eq!(balance, Some((1..=amount).sum()));
    }
    let noon = world.noon().await;
    store.execute(&bob, Open { owner: "Bob".into() }).await?;
    store.execute(&bob, Deposit { amount: 5 }).await?;
    let rows = live.list().filter("balance", 6).await?;
    assert_eq!(rows, [("ann".into(), Balance { owner: "Ann".into(), balance: 6 })]);
    assert_eq!(live.list().after(store.head().await?).await?.len(), 2);
    assert_eq!(live.as_of(noon).list().await?.len(), 1, "a moment that is named still holds");
    assert_eq!(live.get("nobody").await?, None);
    let turnover = store.read_model::<Turnover>().live();
    assert_eq!(turnover.get("in").await?, Some(Turnover { total: 11 }), "keys that a function names");
    let not_built = store.read_model::<Balance>().get(&ann).await;
    assert!(matches!(not_built, Err(StoreError::NotBuilt { .. })), "nothing was written for all that");

    // What a runner keeps is the same.
    let runner = Runner::new(store).read_model::<Balance>().start();
    runner.until(store.head().await?).await?;
    assert_eq!(store.read_model::<Balance>().list().await?, live.list().await?);
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_token_survives_being_text_and_garbage_is_refused() -> Result<(), Any> {
    let world = world().await;
    let (store, ann) = (&world.store, Id::<Account>::from("ann"));
    let runner = Runner::new(store).read_model::<Balance>().start();
    let header = store.execute(&ann, Open { owner: "Ann".into() }).await?.position.to_string();
    let token: Position = header.parse()?;
    assert!(store.read_model::<Balance>().get(&ann).after(token).await?.is_some());
    runner.stop().await;
    assert_eq!(u64::MAX.to_string().parse::<Position>()?, Position(u64::MAX));
    for garbage in ["", "x", "+1", "-1", " 1", "1.0", "99999999999999999999999", "１"] {
        let refused = garbage.parse::<Position>();
        assert!(matches!(refused, Err(Invalid::Name { what: "position", .. })), "{garbage}: {refused:?}");
    }
    Ok(())
}
