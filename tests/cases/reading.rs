//! Asking read models: folded from the log as it is, in an order, and with a token that was text.

use eventstore::{Expected, Id, Invalid, Position, Runner, StoreError, Timestamp, Uuid, prelude::*};
use serde::{Deserialize, Serialize};

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

/// A column of each kind, as the owner of an account spells it.
#[derive(ReadModel, Serialize, Deserialize, Clone, Default, Debug, PartialEq)]
pub struct Sorted {
    pub text: Option<String>,
    #[read_model(index)]
    pub number: Option<i64>,
    pub real: Option<f64>,
    pub flag: Option<bool>,
    pub id: Option<Uuid>,
    pub at: Option<Timestamp>,
    pub before: Option<Timestamp>,
    pub list: Vec<String>,
}

impl Project for Sorted {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        if let AccountEvent::Opened { owner } = &event.data {
            **row = serde_json::from_str(owner).unwrap_or_default();
        }
    }
}

#[tokio::test]
async fn an_instant_that_a_database_would_write_otherwise_is_refused_by_every_store() -> Result<(), Any> {
    let world = world().await;
    for (n, at) in ["0000-12-31T23:59:59Z", "-004712-01-01T00:00:00Z"].into_iter().enumerate() {
        let owner = serde_json::to_string(&Sorted { at: Some(at.parse()?), ..Sorted::default() })?;
        let opened = [AccountEvent::Opened { owner }];
        world.store.append(Id::<Account>::from(n.to_string()), Expected::Any, opened).await?;
    }
    let runner = Runner::new(&world.store).read_model::<Sorted>().start();
    assert!(matches!(runner.settle().await, Err(StoreError::Parked { .. })));
    assert_eq!(runner.status()[0].parked, 2);
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn rows_come_in_the_order_of_a_column_the_same_from_every_store_and_from_the_past() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    // The second largest is there twice.
    let texts = ["", "B", "a", "a", "ß"];
    let numbers = [i64::MIN, -1, 0, 0, i64::MAX];
    let reals = [-1e300, -0.5, 0.25, 0.25, 1e300];
    let flags = [false, false, true, true, true];
    let ids = [0, 0xfff << 100, 0xa << 124, 0xa << 124, u128::MAX].map(Uuid::from_u128);
    let ats = [-1, 0, 250_000, 250_000, 500_000].map(Timestamp::from_micros);
    let befores = ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00.1Z", "0999-01-01T00:00:00Z", "0999-01-01T00:00:00Z"];
    let mut befores: Vec<Timestamp> = befores.into_iter().map(str::parse).collect::<Result<_, _>>()?;
    befores.push(Timestamp::MAX);
    for (n, key) in ["k3", "k1", "k5", "k2", "k4", "k6"].into_iter().enumerate() {
        let row = Sorted {
            text: texts.get(n).map(|text| (*text).into()),
            number: numbers.get(n).copied(),
            real: reals.get(n).copied(),
            flag: flags.get(n).copied(),
            id: ids.get(n).copied(),
            at: ats.get(n).copied(),
            before: befores.get(n).copied(),
            list: vec![],
        };
        let owner = serde_json::to_string(&row)?;
        store.append(Id::<Account>::from(key), Expected::Any, [AccountEvent::Opened { owner }]).await?;
    }
    let runner = Runner::new(store).read_model::<Sorted>().start();
    runner.until(store.head().await?).await?;
    runner.stop().await;
    let table = store.read_model::<Sorted>();
    let keys = async |list: eventstore::List<Sorted>| {
        Ok::<_, StoreError>(list.await?.into_iter().map(|(key, _)| key).collect::<Vec<_>>())
    };
    for rows in [table.live(), table.at_position(store.head().await?), table] {
        for column in ["text", "number", "real", "id", "at", "before"] {
            let (up, down) = (rows.list().order_by(column), rows.list().order_by(column).descending());
            assert_eq!(keys(up).await?, ["k3", "k1", "k2", "k5", "k4", "k6"], "{column}");
            assert_eq!(keys(down).await?, ["k4", "k2", "k5", "k1", "k3", "k6"], "{column}");
        }
        let flags = || rows.list().order_by("flag");
        assert_eq!(keys(flags()).await?, ["k1", "k3", "k2", "k4", "k5", "k6"]);
        assert_eq!(keys(flags().descending()).await?, ["k2", "k4", "k5", "k1", "k3", "k6"]);
        assert_eq!(keys(flags().skip(1).limit(3)).await?, ["k3", "k2", "k4"]);
        assert_eq!(keys(rows.list().skip(4)).await?, ["k5", "k6"]);
        assert_eq!(keys(rows.list().descending().limit(2)).await?, ["k6", "k5"]);
        assert_eq!(keys(rows.list().skip(6)).await?, [""; 0]);
        let true_ones = rows.list().filter("flag", true).order_by("number").descending();
        assert_eq!(keys(true_ones.limit(2)).await?, ["k4", "k2"]);
        for (column, why) in [
            ("no_such", "`sorted` has no column `no_such`"),
            ("list", "column `list` of `sorted` is jsonb and has no order"),
        ] {
            let refused = rows.list().order_by(column).await;
            assert!(matches!(&refused, Err(StoreError::Invalid(Invalid::Request(said))) if said == why), "{refused:?}");
        }
    }
    Ok(())
}
