//! Asking read models: folded from the log as it is, in an order, and with a token that was text.

use std::time::Duration;

use eventstore::{
    Cursor, Expected, Id, Invalid, Position, Runner, Store, StoreError, Timestamp, Uuid, Version, prelude::*,
};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

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
    assert_eq!(Version(7).to_string().parse::<Version>()?, Version(7));
    for garbage in ["", "x", "+1", "-1", " 1", "1.0", "99999999999999999999999", "１"] {
        let refused = garbage.parse::<Position>();
        assert!(matches!(refused, Err(Invalid::Name { what: "position", .. })), "{garbage}: {refused:?}");
        let refused = garbage.parse::<Version>();
        assert!(matches!(refused, Err(Invalid::Name { what: "version", .. })), "{garbage}: {refused:?}");
    }
    assert_eq!("x".parse::<Version>().unwrap_err().to_string(), "version `x` is not a non-negative integer");
    Ok(())
}

/// Five events: of Ann 1, 2 and 4, of Bob 3 and 5; those of Bob happened long ago.
async fn two_accounts(store: &Store) -> Result<(Id<Account>, Id<Account>), Any> {
    let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    let long_ago: Timestamp = "2001-09-09T01:46:40Z".parse()?;
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    store.execute(&ann, Deposit { amount: 1 }).await?;
    store.execute(&bob, Open { owner: "Bob".into() }).occurred_at(long_ago).await?;
    store.execute(&ann, Deposit { amount: 2 }).await?;
    store.execute(&bob, Deposit { amount: 3 }).occurred_at(long_ago + Duration::from_secs(60)).await?;
    Ok((ann, bob))
}

async fn positions(read: eventstore::ReadEvents) -> Result<Vec<u64>, StoreError> {
    read.raw().map_ok(|event| event.position.0).try_collect().await
}

#[tokio::test]
async fn no_names_are_no_events() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (ann, _) = two_accounts(store).await?;
    let none: [&str; 0] = [];
    assert_eq!(positions(store.read().names(none)).await?, [0; 0]);
    assert_eq!(positions(store.read().stream(&ann).names(none)).await?, [0; 0]);
    assert_eq!(store.read().names(none).count().await?, 0);
    assert!(store.read().names(none).events::<AccountEvent>().next().await.is_none());
    assert_eq!(positions(store.read().names(none).names(["account.opened"])).await?, [1, 3]);
    assert_eq!(positions(store.read().names(none).or().stream(&ann)).await?, [1, 2, 4]);
    Ok(())
}

#[tokio::test]
async fn events_of_several_descriptions_are_read_each_once() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (ann, bob) = two_accounts(store).await?;
    let opened = || store.read().names(["account.opened"]);
    assert_eq!(positions(opened().or().stream(&ann)).await?, [1, 2, 3, 4]);
    assert_eq!(positions(opened().or().stream(&ann).after(Position(1)).limit(2)).await?, [2, 3]);
    assert_eq!(positions(opened().stream(&ann).or().stream(&bob).names(["account.deposited"])).await?, [1, 5]);
    assert_eq!(positions(opened().or().stream(&ann).backwards().limit(3)).await?, [4, 3, 2]);
    assert_eq!(positions(opened().or()).await?, [1, 2, 3, 4, 5], "nothing said is every event");
    assert_eq!(opened().or().stream(&ann).count().await?, 4);
    let typed: Vec<_> = opened().or().stream(&bob).events::<AccountEvent>().try_collect().await?;
    assert_eq!(typed.iter().map(|event| event.position.0).collect::<Vec<_>>(), [1, 3, 5]);
    let refused = positions(opened().or().stream(&ann).after_version(Version(1))).await;
    assert!(matches!(refused, Err(StoreError::Invalid(Invalid::Request(_)))), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn t2_events_are_read_by_when_they_happened() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    two_accounts(store).await?;
    let then: Timestamp = "2001-09-09T01:46:40Z".parse()?;
    let read = || store.read().category("account");
    assert_eq!(positions(read().occurred_by(then)).await?, [3]);
    assert_eq!(positions(read().occurred_by(then + Duration::from_secs(60))).await?, [3, 5]);
    assert_eq!(positions(read().occurred_after(then)).await?, [1, 2, 4, 5]);
    assert_eq!(positions(read().occurred_after(then).occurred_by(then + Duration::from_secs(99))).await?, [5]);
    assert_eq!(positions(read().occurred_after(then).limit(3)).await?, [1, 2, 4]);
    assert_eq!(positions(read().occurred_by(then + Duration::from_secs(60)).backwards().limit(1)).await?, [5]);
    assert_eq!(read().occurred_after(then).count().await?, 4);
    assert_eq!(read().count().await?, 5);
    Ok(())
}

#[tokio::test]
async fn an_event_is_found_by_its_id() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (ann, _) = two_accounts(store).await?;
    let log: Vec<_> = store.read().raw().try_collect().await?;
    assert_eq!(store.event(log[3].id).await?, Some(log[3].clone()));
    assert_eq!(log[3].stream, ann);
    assert_eq!(store.event(Uuid::now_v7()).await?, None);
    Ok(())
}

#[tokio::test]
async fn s1_a_stream_is_followed_as_it_grows() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (ann, bob) = two_accounts(store).await?;
    let mut events = store.read().stream(&ann).following().events::<AccountEvent>();
    let mut versions = vec![];
    for _ in 0..3 {
        versions.push(events.try_next().await?.expect("it has no end").version.0);
    }
    let writer = {
        let (store, ann, bob) = (store.clone(), ann.clone(), bob.clone());
        tokio::spawn(async move {
            for amount in 0..20 {
                store.execute(&bob, Deposit { amount }).await.unwrap();
                store.execute(&ann, Deposit { amount }).await.unwrap();
            }
        })
    };
    for _ in 0..20 {
        versions.push(events.try_next().await?.expect("it has no end").version.0);
    }
    writer.await?;
    assert_eq!(versions, (1..=23).collect::<Vec<_>>());
    let more = tokio::time::timeout(Duration::from_millis(50), events.next()).await;
    assert!(more.is_err(), "{more:?}");

    // With an end, it ends; it goes on after what was read.
    assert_eq!(positions(store.read().following().until(Position(5))).await?, [1, 2, 3, 4, 5]);
    assert_eq!(positions(store.read().following().stream(&bob).limit(2)).await?, [3, 5]);
    assert_eq!(positions(store.read().following().after(Position(43)).limit(2)).await?, [44, 45]);
    let backwards = positions(store.read().following().backwards()).await;
    assert!(matches!(backwards, Err(StoreError::Invalid(Invalid::Request(_)))), "{backwards:?}");
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

/// Six rows that are in the same order by every column: k3, k1, k5 and k2, k4; k6 has null in all.
async fn sorted(store: &Store) -> Result<[(&'static str, [Json; 5]); 6], Any> {
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
    fn values<T: Into<Json>>(values: impl IntoIterator<Item = T>) -> [Json; 5] {
        values.into_iter().map(Into::into).collect::<Vec<_>>().try_into().expect("five values")
    }
    Ok([
        ("text", values(texts)),
        ("number", values(numbers)),
        ("real", values(reals)),
        ("id", values(ids.map(|id| id.to_string()))),
        ("at", values(ats.map(|at| at.to_string()))),
        ("before", values(befores.iter().map(ToString::to_string))),
    ])
}

#[tokio::test]
async fn rows_come_in_the_order_of_a_column_the_same_from_every_store_and_from_the_past() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    sorted(store).await?;
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

#[tokio::test]
async fn rows_are_found_by_comparison_the_same_in_every_store_and_in_the_past() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let columns = sorted(store).await?;
    let table = store.read_model::<Sorted>();
    for rows in [table.live(), table.at_position(store.head().await?), table] {
        for (column, [least, second, twice, _, most]) in columns.clone() {
            let list = || rows.list().order_by(column);
            let same = async |list: eventstore::List<Sorted>, counted: eventstore::List<Sorted>, expected: &[&str]| {
                let found = list.await?.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
                assert_eq!(found, expected, "{column}");
                assert_eq!(counted.count().await?, expected.len() as u64, "{column}");
                Ok::<_, StoreError>(())
            };
            let lt = || list().lt(column, twice.clone());
            same(lt(), lt(), &["k3", "k1"]).await?;
            let le = || list().le(column, twice.clone());
            same(le(), le(), &["k3", "k1", "k2", "k5"]).await?;
            let gt = || list().gt(column, twice.clone());
            same(gt(), gt(), &["k4"]).await?;
            let ge = || list().ge(column, twice.clone());
            same(ge(), ge(), &["k2", "k5", "k4"]).await?;
            let between = || list().between(column, second.clone(), twice.clone());
            same(between(), between(), &["k1", "k2", "k5"]).await?;
            let ends = || list().is_in(column, [most.clone(), least.clone(), Json::Null]);
            same(ends(), ends(), &["k3", "k4", "k6"]).await?;
            let none = || list().is_in(column, Vec::<Json>::new());
            same(none(), none(), &[]).await?;
            let both = || list().gt(column, least.clone()).filter("flag", true);
            same(both(), both(), &["k2", "k5", "k4"]).await?;
            // Neither the order nor a limit changes the count.
            assert_eq!(ge().descending().skip(1).limit(1).count().await?, 3, "{column}");
            assert!(list().ge(column, most.clone()).exists().await?, "{column}");
            assert!(!list().gt(column, most.clone()).exists().await?, "{column}");
            let null = list().lt(column, Json::Null).await;
            assert!(matches!(null, Err(StoreError::Invalid(Invalid::Request(_)))), "{column}: {null:?}");
        }
        assert_eq!(rows.list().count().await?, 6);
        let refused = rows.list().lt("list", 1).await;
        assert!(matches!(refused, Err(StoreError::Invalid(Invalid::Request(_)))), "{refused:?}");
        let refused = rows.list().lt("number", "seven").await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    }
    Ok(())
}

#[tokio::test]
async fn pages_have_each_row_once_whatever_comes_in_between() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let columns = sorted(store).await?;
    let table = store.read_model::<Sorted>();
    for rows in [table.live(), store.read_model::<Sorted>()] {
        for column in columns.iter().map(|(column, _)| Some(*column)).chain([None]) {
            for descending in [false, true] {
                let list = || {
                    let list = column.map_or_else(|| rows.list(), |column| rows.list().order_by(column));
                    if descending { list.descending() } else { list }
                };
                let whole: Vec<_> = list().await?.into_iter().map(|(key, _)| key).collect();
                for limit in 1..=7 {
                    let (mut found, mut cursor) = (vec![], None::<Cursor>);
                    loop {
                        // As a client keeps it: as text.
                        let text = cursor.map(|cursor| cursor.to_string());
                        let list = match &text {
                            Some(text) => list().from_cursor(text.parse()?),
                            None => list(),
                        };
                        let page = list.limit(limit).page().await?;
                        found.extend(page.rows.into_iter().map(|(key, _)| key));
                        cursor = page.next;
                        if cursor.is_none() {
                            break;
                        }
                    }
                    assert_eq!(found, whole, "{column:?}, {limit} rows a page, descending: {descending}");
                }
            }
        }
    }
    let first = table.list().order_by("number").limit(2).page().await?;
    let cursor = first.next.expect("another page");
    let other = table.list().order_by("text").from_cursor(cursor.clone()).await;
    assert!(matches!(other, Err(StoreError::Invalid(Invalid::Request(_)))), "{other:?}");
    for garbage in ["", "zz", "7b7d", "ä"] {
        assert!(garbage.parse::<Cursor>().is_err(), "{garbage}");
    }
    // A row before the cursor and one behind it are recorded between two pages: the first is not given, the second is.
    let row = |number| Sorted { number: Some(number), ..Sorted::default() };
    for (key, number) in [("k0", i64::MIN + 1), ("k9", 7)] {
        let owner = serde_json::to_string(&row(number))?;
        store.append(Id::<Account>::from(key), Expected::Any, [AccountEvent::Opened { owner }]).await?;
    }
    let runner = Runner::new(store).read_model::<Sorted>().start();
    runner.until(store.head().await?).await?;
    runner.stop().await;
    let rest = table.list().order_by("number").from_cursor(cursor).page().await?;
    let keys: Vec<_> = rest.rows.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["k2", "k5", "k9", "k4", "k6"]);
    assert_eq!(rest.next, None);
    Ok(())
}
