//! Asking read models: folded from the log as it is, in an order, and with a token that was text.

use std::time::Duration;

use eventstore::{
    Cursor, Expected, Id, Invalid, List, Position, Runner, Store, StoreError, Timestamp, Uuid, Version, prelude::*,
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

async fn put(store: &Store, key: &str, row: Sorted) -> Result<Position, Any> {
    let owner = serde_json::to_string(&row)?;
    Ok(store.append(Id::<Account>::from(key), Expected::Any, [AccountEvent::Opened { owner }]).await?.last)
}

/// Brings a read model to the end of the log.
async fn run<M: ReadModel>(store: &Store) -> Result<(), Any> {
    let runner = Runner::new(store).read_model::<M>().start();
    runner.until(store.head().await?).await?;
    runner.stop().await;
    Ok(())
}

/// The keys of all pages of a list, one page after the other, each cursor kept as text.
async fn paged<M: ReadModel>(list: impl Fn() -> List<M>, limit: usize) -> Result<Vec<String>, Any> {
    let (mut keys, mut cursor) = (vec![], None::<String>);
    loop {
        let list = match &cursor {
            Some(text) => list().from_cursor(text.parse()?),
            None => list(),
        };
        let page = list.limit(limit).page().await?;
        assert!(page.rows.len() <= limit, "{} rows", page.rows.len());
        keys.extend(page.rows.into_iter().map(|(key, _)| key));
        assert!(keys.len() < 10_000, "the pages have no end");
        match page.next {
            Some(next) => cursor = Some(next.to_string()),
            None => return Ok(keys),
        }
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Invalid(Invalid::Request(_)))), "{result:?}");
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
        put(store, key, row).await?;
    }
    run::<Sorted>(store).await?;
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
async fn p11_pages_have_each_row_once_whatever_is_recorded_between_them() -> Result<(), Any> {
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
                    assert_eq!(paged(list, limit).await?, whole, "{column:?}, {limit} rows, descending: {descending}");
                }
            }
        }
    }
    let first = table.list().order_by("number").limit(2).page().await?;
    let cursor = first.next.expect("another page");
    // A row before the cursor and one after it are recorded between two pages: the first is left out, the second is there.
    for (key, number) in [("k0", i64::MIN + 1), ("k9", 7)] {
        put(store, key, Sorted { number: Some(number), ..Sorted::default() }).await?;
    }
    run::<Sorted>(store).await?;
    let rest = table.list().order_by("number").from_cursor(cursor).page().await?;
    let keys: Vec<_> = rest.rows.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["k2", "k5", "k9", "k4", "k6"]);
    assert_eq!(rest.next, None);
    Ok(())
}

#[tokio::test]
async fn values_at_the_edges_of_their_types_compare_the_same_in_every_store() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    // By bytes of UTF-8, which is not the order of UTF-16, nor that of any language.
    let texts = ["", " ", "A", "Z", "a", "a ", "ab", "e\u{301}", "z", "\u{e9}", "\u{ffff}", "\u{1f600}"];
    let exact = 1_i64 << 53;
    let numbers =
        [i64::MIN, i64::MIN + 1, -exact - 1, -exact, -1, 0, 1, exact, exact + 1, 1 << 62, i64::MAX - 1, i64::MAX];
    let reals = [
        f64::MIN,
        -1.0,
        -f64::MIN_POSITIVE,
        -5e-324,
        -0.0,
        0.0,
        5e-324,
        0.1,
        0.3,
        0.1 + 0.2,
        9007199254740994.0,
        f64::MAX,
    ];
    for (n, ((text, number), real)) in texts.into_iter().zip(numbers).zip(reals).enumerate() {
        // Keys are in another order than values.
        let key = format!("r{:02}", n * 7 % 12);
        let row = Sorted { text: Some(text.into()), number: Some(number), real: Some(real), ..Sorted::default() };
        put(store, &key, row).await?;
    }
    put(store, "r99", Sorted::default()).await?;
    run::<Sorted>(store).await?;
    let table = store.read_model::<Sorted>();
    for rows in [table.live(), table] {
        compare(&rows, "text", &texts).await?;
        compare(&rows, "number", &numbers).await?;
        compare(&rows, "real", &reals).await?;
        for column in ["text", "number", "real", "flag"] {
            for descending in [false, true] {
                let list = || match descending {
                    true => rows.list().order_by(column).descending(),
                    false => rows.list().order_by(column),
                };
                let whole: Vec<_> = list().await?.into_iter().map(|(key, _)| key).collect();
                assert_eq!((whole.len(), whole.last().map(|key| &**key)), (13, Some("r99")), "null is last");
                assert_eq!(paged(list, 1).await?, whole, "{column}, descending: {descending}");
                assert_eq!(paged(list, 5).await?, whole, "{column}, descending: {descending}");
            }
        }
    }
    Ok(())
}

/// Compares a column with each of its values, the n-th in the row `r{n * 7 % 12}`, as Rust does.
async fn compare<T: PartialOrd + Copy + Into<Json>>(
    rows: &eventstore::ReadModels<Sorted>,
    column: &'static str,
    values: &[T],
) -> Result<(), Any> {
    let found =
        async |list: List<Sorted>| Ok::<_, StoreError>(list.await?.into_iter().map(|(key, _)| key).collect::<Vec<_>>());
    let list = || rows.list();
    for (n, value) in values.iter().copied().enumerate() {
        let expected = |passes: &dyn Fn(&T) -> bool| {
            let rows = values.iter().enumerate().filter(|(_, value)| passes(value));
            let mut keys: Vec<_> = rows.map(|(n, _)| format!("r{:02}", n * 7 % 12)).collect();
            keys.sort();
            keys
        };
        assert_eq!(found(list().filter(column, value)).await?, expected(&|it| *it == value), "{column} = {n}");
        assert_eq!(found(list().is_in(column, [value])).await?, expected(&|it| *it == value), "{column} in {n}");
        assert_eq!(found(list().lt(column, value)).await?, expected(&|it| *it < value), "{column} < {n}");
        assert_eq!(found(list().le(column, value)).await?, expected(&|it| *it <= value), "{column} <= {n}");
        assert_eq!(found(list().gt(column, value)).await?, expected(&|it| *it > value), "{column} > {n}");
        assert_eq!(found(list().ge(column, value)).await?, expected(&|it| *it >= value), "{column} >= {n}");
        assert_eq!(list().ge(column, value).count().await?, expected(&|it| *it >= value).len() as u64, "{column}: {n}");
    }
    Ok(())
}

#[tokio::test]
async fn a_query_that_no_column_can_answer_is_refused_by_every_store() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    sorted(store).await?;
    let table = store.read_model::<Sorted>();
    let wrong: [fn(List<Sorted>) -> List<Sorted>; 28] = [
        |list| list.filter("nope", 1),
        |list| list.lt("nope", 1),
        |list| list.between("nope", 1, 2),
        |list| list.is_in("nope", [1]),
        |list| list.is_in("nope", Vec::<i64>::new()),
        |list| list.order_by("nope"),
        |list| list.order_by("key"),
        |list| list.order_by("list"),
        |list| list.filter("list", "a"),
        |list| list.is_in("list", ["a"]),
        |list| list.ge("list", "a"),
        |list| list.gt("number", 1.5),
        |list| list.gt("number", u64::MAX),
        |list| list.gt("number", "1"),
        |list| list.is_in("number", [Json::from(1), Json::from("1")]),
        |list| list.lt("real", f64::NAN),
        |list| list.le("real", f64::INFINITY),
        |list| list.lt("real", "1"),
        |list| list.lt("flag", 1),
        |list| list.lt("id", "no UUID"),
        |list| list.lt("at", "yesterday"),
        |list| list.lt("at", "0000-12-31T23:59:59Z"),
        |list| list.lt("text", 1),
        |list| list.lt("text", "\0"),
        |list| list.gt("text", Json::Null),
        |list| list.between("number", Json::Null, 1),
        |list| list.between("number", 1, Json::Null),
        |list| list.ge("number", None::<i64>),
    ];
    for rows in [table.live(), store.read_model::<Sorted>()] {
        for wrong in wrong {
            refused(wrong(rows.list()).await);
            refused(wrong(rows.list()).count().await);
            refused(wrong(rows.list()).exists().await);
            refused(wrong(rows.list()).page().await);
        }
        refused(rows.list().limit(0).page().await);
        // The limits are those of every store: SQLite has 32,766 parameters, and 1,000 levels of an expression.
        let many = || rows.list().is_in("number", 0..9_999_i64).ge("number", 0);
        assert_eq!(many().count().await?, 2);
        assert_eq!(paged(many, 1).await?, ["k2", "k5"]);
        let texts = (0..10_000).map(|n| format!("{n}"));
        assert_eq!(rows.list().is_in("text", texts).await?, []);
        let Err(StoreError::Invalid(Invalid::TooLarge { size, limit, .. })) = many().ge("number", 1).await else {
            panic!("too many values are not refused")
        };
        assert_eq!((size, limit), (10_001, eventstore::limits::COMPARED_VALUES));
        let filtered = |filters: i64| (0..filters).fold(rows.list(), |list, n| list.ge("number", -n));
        assert_eq!(filtered(256).count().await?, filtered(1).count().await?);
        let Err(StoreError::Invalid(Invalid::TooLarge { size: 257, limit, .. })) = filtered(257).await else {
            panic!("too many filters are not refused")
        };
        assert_eq!(limit, eventstore::limits::FILTERS);
        // What is false before true, and rows without either.
        let keys = async |list: List<Sorted>| {
            Ok::<_, StoreError>(list.await?.into_iter().map(|(key, _)| key).collect::<Vec<_>>())
        };
        assert_eq!(keys(rows.list().lt("flag", true)).await?, ["k1", "k3"]);
        assert_eq!(keys(rows.list().ge("flag", false)).await?, ["k1", "k2", "k3", "k4", "k5"]);
        assert_eq!(keys(rows.list().between("number", 1, 0)).await?, [""; 0]);
        assert_eq!(keys(rows.list().filter("number", None::<i64>)).await?, ["k6"]);
    }
    // Neither a limit nor a skip has a say in what there is.
    assert!(table.list().limit(0).exists().await?);
    assert!(table.list().skip(100).exists().await?);
    assert_eq!(table.list().limit(0).await?, []);
    assert_eq!(table.list().limit(usize::MAX).page().await?.rows.len(), 6);
    // A model whose table was never built, and a place that is not in the log.
    let never = store.read_model::<Balance>();
    assert!(matches!(never.list().page().await, Err(StoreError::NotBuilt { .. })));
    assert!(matches!(never.list().count().await, Err(StoreError::NotBuilt { .. })));
    assert!(matches!(never.list().gt("balance", 1).exists().await, Err(StoreError::NotBuilt { .. })));
    let beyond = Position(store.head().await?.0 + 1);
    assert!(matches!(table.list().after(beyond).page().await, Err(StoreError::Forked { .. })));
    assert!(matches!(table.list().after(beyond).count().await, Err(StoreError::Forked { .. })));
    Ok(())
}

#[tokio::test]
async fn a_cursor_is_refused_by_any_list_but_its_own() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    sorted(store).await?;
    store.execute(Id::<Account>::from("k1"), Deposit { amount: 1 }).await?;
    run::<Balance>(store).await?;
    let table = store.read_model::<Sorted>();
    let list = || table.list().order_by("number").is_in("number", [-1, 0, 7]).gt("real", -9.5).limit(1);
    let cursor = || async { Ok::<_, Any>(list().page().await?.next.expect("another page")) };
    let first = cursor().await?;
    assert_eq!(list().from_cursor(first.clone()).page().await?.rows[0].0, "k2");
    // The same filters, said in another order.
    let same = || table.list().order_by("number").gt("real", -9.5).is_in("number", [7, 0, 0, -1]);
    assert_eq!(same().from_cursor(first.clone()).await?.len(), 2);
    // In serde it is its text.
    let text = serde_json::to_string(&first)?;
    assert_eq!(text, format!("\"{first}\""));
    assert_eq!(serde_json::from_str::<Cursor>(&text)?, first);
    let other = |list: List<Sorted>| list.from_cursor(first.clone());
    refused(other(table.list()).await);
    refused(other(table.list().order_by("text")).page().await);
    refused(other(list().descending()).page().await);
    refused(other(table.list().order_by("number")).count().await);
    refused(other(list().ge("number", 0)).exists().await);
    refused(other(table.list().order_by("number").is_in("number", [-1, 0, 8]).gt("real", -9.5)).await);
    refused(other(table.list().order_by("number").is_in("number", [-1, 0, 7]).ge("real", -9.5)).await);
    refused(other(list().skip(1)).page().await);
    refused(other(table.live().list()).await);
    refused(store.read_model::<Balance>().list().order_by("balance").from_cursor(first.clone()).page().await);
    // No change of the text gives rows: it is garbage, or the list refuses it.
    let text = first.to_string();
    for garbage in ["", "zz", "7b7d", "\u{e4}", "+1", &text[1..], &text[2..], &text[..text.len() - 2]] {
        let error = garbage.parse::<Cursor>().expect_err(garbage);
        assert!(matches!(error, Invalid::Request(_)), "{error:?}");
        assert!(
            !error.to_string().contains(garbage) || garbage.len() < 5,
            "an error may be logged, and a cursor has data"
        );
    }
    let json = String::from_utf8(
        (0..text.len() / 2).map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap()).collect(),
    )?;
    let changes = [
        (r#""number""#, r#""text""#),
        (r#""value":-1"#, r#""value":0"#),
        (r#""value":-1"#, r#""value":"x""#),
        (r#""value":-1"#, r#""value":null"#),
        (r#""value":-1"#, r#""value":[[[]]]"#),
        ("k1", "k0"),
        ("k1", "k\\u0000"),
        ("sorted@1", "sorted@2"),
        (r#""descending":false"#, r#""descending":true"#),
        (r#""sum":"#, r#""sum":1"#),
    ];
    for (from, to) in changes {
        assert!(json.contains(from), "{json} has no {from}");
        let text: String = json.replace(from, to).bytes().map(|byte| format!("{byte:02x}")).collect();
        match text.parse::<Cursor>() {
            Ok(changed) => refused(list().from_cursor(changed).page().await),
            Err(error) => assert!(matches!(error, Invalid::Request(_)), "{to}: {error:?}"),
        }
    }
    assert!(!format!("{first:?}").contains("k1"), "{first:?}");
    Ok(())
}

#[tokio::test]
async fn pages_of_the_past_of_inline_rows_and_after_a_position() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store.clone().with_inline::<Balance>();
    let ids: Vec<_> = (0..9).map(|n| Id::<Account>::from(format!("A{n}"))).collect();
    for (n, id) in ids.iter().enumerate() {
        store.append(id, Expected::Any, [AccountEvent::Deposited { amount: n as i64 / 3 }]).await?;
    }
    let balances = store.read_model::<Balance>();
    let list = || balances.list().order_by("balance").descending();
    let all = ["A6", "A7", "A8", "A3", "A4", "A5", "A0", "A1", "A2"];
    assert_eq!(paged(list, 2).await?, all);
    assert_eq!((balances.list().ge("balance", 1).count().await?, balances.list().exists().await?), (6, true));

    // The past stays as it was between its pages.
    let (then, head) = (world.noon().await, store.head().await?);
    let past = [balances.at_position(head), balances.as_of(then)];
    let past: Vec<_> = past.iter().map(|rows| move || rows.list().order_by("balance").descending()).collect();
    let mut first = vec![];
    for past in &past {
        first.push(past().limit(4).page().await?);
    }
    let moved = store.append(&ids[8], Expected::Any, [AccountEvent::Withdrawn { amount: 2 }]).await?.last;
    for (past, page) in past.iter().zip(first) {
        let mut keys: Vec<_> = page.rows.into_iter().map(|(key, _)| key).collect();
        let rest = past().from_cursor(page.next.expect("another page")).page().await?;
        keys.extend(rest.rows.into_iter().map(|(key, _)| key));
        assert_eq!(keys, all);
        assert_eq!(paged(past, 4).await?, all);
        assert_eq!((past().gt("balance", 1).count().await?, past().gt("balance", 2).exists().await?), (3, false));
    }
    let now = ["A6", "A7", "A3", "A4", "A5", "A0", "A1", "A2", "A8"];
    assert_eq!(paged(|| list().after(moved), 2).await?, now);
    assert_eq!(balances.list().gt("balance", 1).after(moved).count().await?, 2);

    // In a transaction, rows that it has changed.
    let tx = store.begin().await?;
    tx.append(&ids[0], Expected::Any, [AccountEvent::Deposited { amount: 7 }]).await?;
    let own = tx.read_model::<Balance>();
    let keys = paged(|| own.list().order_by("balance").descending().ge("balance", 1), 2).await?;
    assert_eq!(keys, ["A0", "A6", "A7", "A3", "A4", "A5"]);
    assert_eq!(own.list().gt("balance", 1).count().await?, 3);
    tx.rollback().await?;
    assert_eq!(balances.list().gt("balance", 1).count().await?, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_pages_have_each_unchanged_row_once_while_others_come_move_and_go() -> Result<(), Any> {
    const STEADY: usize = 40;
    let world = world().await;
    let store = &world.store;
    for n in 0..STEADY {
        let amount = (n * 11 % 7) as i64;
        store
            .append(Id::<Account>::from(format!("S{n:02}")), Expected::Any, [AccountEvent::Deposited { amount }])
            .await?;
    }
    let running = Runner::new(store).read_model::<Balance>().start();
    running.until(store.head().await?).await?;
    let balances = store.read_model::<Balance>();
    let done = std::sync::atomic::AtomicBool::new(false);
    let write = async {
        let mut n = 0_u64;
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            n += 1;
            let id = Id::<Account>::from(format!("{}{:02}", ["A", "S1x", "Z"][n as usize % 3], n * 17 % 23));
            let amount = (n * 31 % 9) as i64 - 1;
            let event = if n.is_multiple_of(4) { AccountEvent::Closed } else { AccountEvent::Deposited { amount } };
            store.append(id, Expected::Any, [event]).await?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok::<_, Any>(n)
    };
    let read = async {
        for round in 0..12 {
            let list = || match round % 4 {
                0 => balances.list().order_by("balance"),
                1 => balances.list().order_by("balance").descending(),
                2 => balances.list().ge("balance", 0),
                _ => balances.list().is_in("balance", 0..7_i64).order_by("owner").descending(),
            };
            let steady = |keys: Vec<String>| {
                keys.into_iter().filter(|key| key.starts_with('S') && key.len() == 3).collect::<Vec<_>>()
            };
            let whole = steady(list().await?.into_iter().map(|(key, _)| key).collect());
            assert_eq!(whole.len(), STEADY);
            assert_eq!(steady(paged(list, 1 + round).await?), whole, "round {round}");
        }
        Ok::<_, Any>(())
    };
    let (written, read) = tokio::join!(write, async {
        let read = read.await;
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        read
    });
    read?;
    assert!(written? > 0);
    running.stop().await;
    Ok(())
}

/// Columns with the names that a statement may want for itself.
#[derive(ReadModel, Serialize, Deserialize, Default, Clone, Debug, PartialEq)]
struct Short {
    r: Option<f64>,
    t: Option<String>,
    e: i64,
    n: i64,
    valued: bool,
}

impl Project for Short {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        let AccountEvent::Deposited { amount } = event.data else { return };
        (row.r, row.t, row.valued) = (Some(0.5), Some("t".into()), true);
        (row.e, row.n) = (row.e + amount, row.n + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_may_have_any_name() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let running = Runner::new(store).read_model::<Short>().start();
    let mut last = Position(0);
    for (id, amount) in [("ann", 5), ("bob", 7), ("ann", 6)] {
        let deposited = [AccountEvent::Deposited { amount }];
        last = store.append(Id::<Account>::from(id), Expected::Any, deposited).await?.last;
    }
    running.until(last).await?;
    let ann = Short { r: Some(0.5), t: Some("t".into()), e: 11, n: 2, valued: true };
    let rows = store.read_model::<Short>();
    assert_eq!(rows.get("ann").await?, Some(ann.clone()));
    for column in ["e", "n"] {
        let page = rows.list().filter("r", 0.5).ge("t", "t").order_by(column).descending().limit(1).page().await?;
        assert_eq!(page.rows, [("ann".into(), ann.clone())]);
        assert!(page.next.is_some());
    }
    // All columns of the rows as they are, and each row again.
    running.rebuild("short").await?.wait().await?;
    let compared = eventstore::Processors::new(store).compare("short").await?;
    assert_eq!((compared.same, compared.different, compared.moving), (2, 0, 0), "{compared:?}");
    running.stop().await;
    Ok(())
}

/// Whole numbers in columns of real numbers.
#[derive(ReadModel, Serialize, Deserialize, Default, Clone, Debug, PartialEq)]
struct Totals {
    #[read_model(column = "double precision")]
    total: i64,
    ratio: f64,
}

impl Project for Totals {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        let AccountEvent::Deposited { amount } = event.data else { return };
        row.total += amount;
        row.ratio = row.total as f64;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_number_is_read_from_a_column_of_real_numbers_as_it_was_written() -> Result<(), Any> {
    // PostgreSQL writes no fraction below 10^15. From there on it writes an exponent, which no integer is read from.
    const LARGEST: i64 = 999_999_999_999_999;
    let world = world().await;
    let store = &world.store;
    let running = Runner::new(store).read_model::<Totals>().start();
    let rows = store.read_model::<Totals>();
    let mut total = 0;
    for amount in [5, -5, -3, LARGEST + 3, -2 * LARGEST] {
        // The processor reads the row back before it adds the next amount.
        let deposited = [AccountEvent::Deposited { amount }];
        running.until(store.append(Id::<Account>::from("ann"), Expected::Any, deposited).await?.last).await?;
        total += amount;
        assert_eq!(rows.get("ann").await?, Some(Totals { total, ratio: total as f64 }));
    }
    running.stop().await;
    Ok(())
}
