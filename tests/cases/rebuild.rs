//! Read models that are built again, and new versions of them: nobody notices.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use eventstore::{Changes, Id, Invalid, Position, Processors, Runner, Running, State, Store, StoreError, prelude::*};
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

use super::{
    World,
    account::{AccountEvent::*, *},
    balances::*,
    world,
};

type Any = Box<dyn std::error::Error>;

const LEASE: Duration = Duration::from_millis(300);

/// As [`Balance`], and how often something was deposited.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
#[read_model(name = "balance", version = 2)]
struct Balance2 {
    #[read_model(index)]
    owner: String,
    balance: i64,
    deposits: i64,
}

impl Project for Balance2 {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        match &event.data {
            Opened { owner } => row.owner = owner.clone(),
            Deposited { amount } => (row.balance, row.deposits) = (row.balance + amount, row.deposits + 1),
            Withdrawn { amount } => row.balance -= amount,
            Closed => row.delete(),
        }
    }
}

async fn open(store: &Store, accounts: usize) -> Result<Vec<Id<Account>>, Any> {
    let ids: Vec<_> = (0..accounts).map(|n| Id::<Account>::from(format!("A{n}"))).collect();
    for id in &ids {
        store.execute(id, Open { owner: format!("owner of {id}") }).await?;
        store.execute(id, Deposit { amount: 10 }).await?;
    }
    Ok(ids)
}

/// Appends until it is told to stop.
async fn keep_writing(store: &Store, ids: &[Id<Account>], writing: &AtomicBool) -> Result<(), Any> {
    let mut n = 0;
    while writing.load(Ordering::SeqCst) {
        store.execute(&ids[n % ids.len()], Deposit { amount: n as i64 }).await?;
        n += 1;
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    Ok(())
}

/// Every row is the fold of its events: made anew from the log, by nobody who has written it.
async fn equals_the_log<M: ReadModel + PartialEq + std::fmt::Debug>(
    store: &Store,
    running: &Running,
) -> Result<(), Any> {
    let head = store.head().await?;
    running.until(head).await?;
    let rows = store.read_model::<M>().list().after(head).await?;
    assert_eq!(rows, store.read_model::<M>().at_position(head).list().await?);
    assert!(!rows.is_empty());
    Ok(())
}

/// Somebody spoils a row.
async fn spoil(world: &World, key: &str) -> Result<(), Any> {
    let row = to_raw_value(&Balance { owner: "a thief".into(), balance: 1_000_000 })?;
    let mut transaction = world.inner.begin().await?;
    transaction.write(Changes { table: Balance::TABLE, upserts: vec![(key.into(), row)], deletes: vec![] }).await?;
    Ok(transaction.commit().await?)
}

/// The columns that plain SQL finds, if there is any.
pub async fn by_sql(world: &World) -> Result<Option<Vec<String>>, Any> {
    if world.inner.database().is::<()>() {
        return Ok(None);
    }
    let whole =
        eventstore::Rows::Whole { table: "balance@current".into(), keys: vec![], after: String::new(), limit: 1 };
    let rows = world.inner.rows(whole).await?;
    let row: serde_json::Map<_, _> = serde_json::from_str(rows[0].1.get())?;
    Ok(Some(row.keys().cloned().collect()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_table_is_built_again_beside_the_one_that_is_read() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ids = open(store, 30).await?;
    let running = Runner::new(store).read_model::<Balance>().shards(3).lease(Duration::from_millis(300)).start();
    running.until(store.head().await?).await?;
    spoil(&world, "A3").await?;

    let writing = AtomicBool::new(true);
    let operate = async {
        let rebuild = running.rebuild("balance").await?;
        assert_eq!(rebuild.name(), "balance@1~shadow");
        rebuild.wait().await?;
        assert!(rebuild.progress().await?.is_built());
        assert_eq!(store.read_model::<Balance>().get("A3").await?.map(|row| row.owner), Some("a thief".into()));

        let comparison = running.compare("balance").await?;
        assert_eq!((comparison.same + comparison.different, comparison.moving), (30, 0), "{comparison}");
        assert!(comparison.differences.iter().all(|difference| difference.key == "A3"), "{comparison}");

        running.promote("balance").await?;
        assert_eq!(store.read_model::<Balance>().get("A3").await?.map(|row| row.owner), Some("owner of A3".into()));
        writing.store(false, Ordering::SeqCst);
        Ok::<_, Any>(())
    };
    let (written, operated) = tokio::join!(keep_writing(store, &ids, &writing), async {
        let operated = operate.await;
        writing.store(false, Ordering::SeqCst);
        operated
    });
    written?;
    operated?;
    equals_the_log::<Balance>(store, &running).await?;

    running.rebuild("balance").await?.wait().await?;
    assert!(running.compare("balance").await?.is_same());
    spoil(&world, "A3").await?;
    let comparison = running.compare("balance").await?;
    assert_eq!((comparison.same, comparison.different, comparison.moving), (29, 1, 0), "{comparison}");
    assert_eq!(comparison.differences[0].key, "A3");
    running.promote("balance").await?;
    equals_the_log::<Balance>(store, &running).await?;

    // The other one is kept, and brought up to date before anybody reads it again.
    store.execute(&ids[5], Deposit { amount: 5 }).await?;
    running.rollback("balance").await?;
    assert_eq!(store.read_model::<Balance>().get("A3").await?.map(|row| row.owner), Some("a thief".into()));
    let head = store.head().await?;
    let mine = store.read_model::<Balance>().get(&ids[5]).after(head).await?;
    assert_eq!(mine, store.read_model::<Balance>().get(&ids[5]).at_position(head).await?);
    running.rollback("balance").await?;
    equals_the_log::<Balance>(store, &running).await?;
    running.discard("balance@1~shadow").await?;
    assert!(matches!(running.rollback("balance").await, Err(StoreError::Invalid(Invalid::Request(_)))));
    let names: Vec<_> = Processors::new(store).status().await?.into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["balance@1"]);
    running.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_new_version_is_read_once_it_is_whole() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ids = open(store, 20).await?;
    let old = Runner::new(store).read_model::<Balance>().lease(Duration::from_millis(300)).start();
    old.until(store.head().await?).await?;

    let (one, two) = (store.read_model::<Balance>(), store.read_model::<Balance2>());
    let new =
        || Runner::new(store).read_model::<Balance2>().promote_by_hand().lease(Duration::from_millis(300)).start();
    let running = new();
    // While it is being built it cannot be read, except for what is known to be in it.
    let operator = Processors::new(store);
    let rebuild = loop {
        match operator.building("balance@2").await {
            Ok(rebuild) => break rebuild,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    rebuild.wait().await?;
    running.stop().await;
    let running = new();
    running.until(store.head().await?).await?;
    let row = two.get(&ids[0]).await?.ok_or("a row")?;
    assert_eq!((row.balance, row.deposits), (10, 1));
    let status = loop {
        let status = operator.status().await?;
        if status.iter().any(|status| status.current) {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let current: Vec<_> = status.iter().filter(|status| status.current).map(|status| &*status.name).collect();
    assert_eq!(current, ["balance@1"], "nobody has said otherwise");
    if let Some(columns) = by_sql(&world).await? {
        assert!(!columns.contains(&"deposits".to_owned()));
    }
    let comparison = operator.compare("balance").await?;
    assert_eq!((comparison.same, comparison.is_same()), (20, true), "{comparison}");
    assert_eq!(comparison.columns, ["deposits"]);
    // A row that only one of them has, and before all others, hides no column.
    spoil(&world, "A").await?;
    let comparison = operator.compare("balance").await?;
    assert_eq!((comparison.same, comparison.different, comparison.moving), (20, 1, 0), "{comparison}");
    assert_eq!(comparison.columns, ["deposits"]);
    let mut transaction = world.inner.begin().await?;
    transaction.write(Changes { table: Balance::TABLE, upserts: vec![], deletes: vec!["A".into()] }).await?;
    transaction.commit().await?;

    let writing = AtomicBool::new(true);
    let (written, promoted) = tokio::join!(keep_writing(store, &ids, &writing), async {
        let promoted = operator.promote("balance").await;
        writing.store(false, Ordering::SeqCst);
        promoted
    });
    written?;
    promoted?;
    if let Some(columns) = by_sql(&world).await? {
        assert!(columns.contains(&"deposits".to_owned()));
    }
    // Both go on, each for those who have its code.
    equals_the_log::<Balance>(store, &old).await?;
    equals_the_log::<Balance2>(store, &running).await?;
    assert_eq!(one.get(&ids[0]).await?.map(|row| row.balance), two.get(&ids[0]).await?.map(|row| row.balance));

    let current = async |running: &Running, is| {
        while running.status()[0].current != is {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    current(&running, true).await;
    current(&old, false).await;

    operator.rollback("balance").await?;
    if let Some(columns) = by_sql(&world).await? {
        assert!(!columns.contains(&"deposits".to_owned()));
    }
    operator.promote("balance@2").await?;
    assert!(operator.discard("balance@1").await.is_err(), "it is still run");
    old.stop().await;
    operator.discard("balance@1").await?;
    assert!(matches!(one.get(&ids[0]).await, Err(StoreError::NotBuilt { .. })));
    running.stop().await;
    Ok(())
}

/// A process that has read the table before it was discarded is told, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_version_that_was_discarded_is_not_read_before_it_is_whole_again() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    for account in 0..3 {
        let deposits = (0..100).map(|n| eventstore::StreamId::new("account", &format!("A{account}-{n}")));
        for stream in deposits {
            store.append(stream, eventstore::Expected::Any, [Deposited { amount: 1 }]).await?;
        }
    }
    let head = store.head().await?;
    let runner = |store: &Store| Runner::new(store).read_model::<Balance2>().batch(1).promote_by_hand().lease(LEASE);
    let old = Runner::new(store).read_model::<Balance>().start();
    old.until(head).await?;
    let reader: Store = world.inner.clone().into();
    for round in 0..3 {
        let builder: Store = world.inner.clone().into();
        let new = runner(&builder).start();
        let (mut whole, mut building) = (0, 0);
        while whole < 20 {
            match reader.read_model::<Balance2>().list().await {
                Ok(rows) => {
                    assert_eq!(rows.len(), 300, "round {round}");
                    whole += 1;
                }
                Err(StoreError::Building { until, .. }) => {
                    assert_eq!(until, head);
                    building += 1;
                }
                Err(StoreError::NotBuilt { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if let Ok(row) = reader.read_model::<Balance2>().get("A2-99").await {
                assert_eq!(row.map(|row| row.balance), Some(1), "round {round}");
            }
        }
        assert!(building > 0, "round {round}: it was read while it was built");
        new.stop().await;
        old.discard("balance@2").await?;
    }
    old.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_built_is_not_read_and_its_pace_is_kept() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ids = open(store, 100).await?;
    let runner = || Runner::new(store).read_model::<Balance>().batch(20).lease(Duration::from_millis(300));
    let running = runner().start();
    running.until(store.head().await?).await?;
    let nothing = running.throttle("balance", Some(0)).await;
    assert!(matches!(nothing, Err(StoreError::Invalid(Invalid::Request(_)))), "{nothing:?}");
    running.throttle("balance", Some(50)).await?;
    let rebuild = running.rebuild("balance").await?;
    running.throttle("balance", None).await?;
    // Whoever begins it again finds it going on; so does another process.
    assert_eq!(running.rebuild("balance").await?.name(), rebuild.name());
    let progress = rebuild.progress().await?;
    assert!(!progress.is_built(), "{progress}");
    assert!(matches!(running.promote("balance").await, Err(StoreError::Building { until: Position(200), .. })));
    assert!(matches!(running.compare("balance").await, Err(StoreError::Building { .. })));
    assert_eq!(running.rebuild(rebuild.name()).await?.name(), rebuild.name());
    running.pause(rebuild.name()).await?;
    let paused = rebuild.progress().await?.position;
    assert_eq!(rebuild.progress().await?.position, paused);
    running.stop().await;

    let running = runner().start();
    let states = Processors::new(store).status().await?;
    assert!(states.iter().any(|status| status.name == rebuild.name() && status.state == State::Paused));
    running.throttle(rebuild.name(), None).await?;
    running.resume(rebuild.name()).await?;
    rebuild.wait().await?;

    // What is paused cannot come to where the other one is: nobody is sent to older rows.
    running.pause(rebuild.name()).await?;
    while !Processors::new(store).status().await?.iter().any(|status| status.state == State::Paused) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.execute(&ids[7], Deposit { amount: 7 }).await?;
    let head = store.head().await?;
    let row = store.read_model::<Balance>().get(&ids[7]).after(head).await?;
    let behind = running.promote("balance").await;
    let Err(StoreError::Behind { projection, at, until, reason }) = behind else { panic!("{behind:?}") };
    assert_eq!((&*projection, until), (rebuild.name(), head));
    assert!(at < head && reason.is_some_and(|reason| reason.to_string().contains("paused")));
    assert_eq!(store.read_model::<Balance>().get(&ids[7]).await?, row);

    running.resume(rebuild.name()).await?;
    running.promote("balance").await?;
    equals_the_log::<Balance>(store, &running).await?;
    assert_eq!(store.read_model::<Balance>().list().filter("owner", "owner of A7").await?.len(), 1);

    for (what, done) in [
        ("no such", running.rebuild("nonsense").await.map(drop)),
        ("nothing beside", running.promote("balance").await),
        ("nothing beside", running.compare("balance").await.map(drop)),
        ("the current one", running.discard("balance@1").await),
        ("not a full name", running.discard("balance").await),
        ("no such", running.building("balance@7").await.map(drop)),
    ] {
        assert!(matches!(done, Err(StoreError::Invalid(Invalid::Request(_)))), "{what}: {done:?}");
    }
    running.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_model_that_begins_on_an_old_log_is_not_read_before_it_is_whole() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ids = open(store, 5).await?;
    let balances = store.read_model::<Balance>();
    assert!(matches!(balances.get(&ids[0]).await, Err(StoreError::NotBuilt { .. })));
    let running = Runner::new(store).read_model::<Balance>().start();
    loop {
        match balances.get(&ids[0]).await {
            Ok(row) => {
                assert_eq!(row.map(|row| row.balance), Some(10), "whole from the first moment on");
                break;
            }
            Err(StoreError::Building { until, .. }) => assert_eq!(until, Position(10)),
            Err(StoreError::NotBuilt { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    running.stop().await;
    Ok(())
}

static MENDED: AtomicBool = AtomicBool::new(false);

/// Its code has a bug, until it is mended.
#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
struct Flaky {
    sum: f64,
}

impl Project for Flaky {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        if let Deposited { amount } = event.data {
            // What no table can hold would fail again for certain: nobody tries it by himself.
            row.sum += if amount != 7 || MENDED.load(Ordering::SeqCst) { amount as f64 } else { f64::NAN };
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_what_would_happen_is_shown_and_one_row_is_made_anew() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ids = open(store, 3).await?;
    let running = Runner::new(store)
        .read_model::<Flaky>()
        .read_model::<Balance>()
        .shards(4)
        .lease(Duration::from_millis(300))
        .start();
    running.until(store.head().await?).await?;

    // A row that somebody has spoiled.
    spoil(&world, "A1").await?;
    running.rebuild_key("balance", "A1").await?;
    assert_eq!(
        store.read_model::<Balance>().get("A1").await?,
        Some(Balance { owner: "owner of A1".into(), balance: 10 })
    );
    // One that should not be there.
    spoil(&world, "nobody").await?;
    running.rebuild_key("balance", "nobody").await?;
    assert_eq!(store.read_model::<Balance>().get("nobody").await?, None);

    for amount in [7, 5] {
        store.execute(&ids[0], Deposit { amount }).await?;
    }
    super::parked::reached(&running, store.head().await?).await?;
    // From another process, without the code.
    let letters = Processors::new(store).dead_letters("flaky");
    let tried = letters.try_run("A0").await?;
    assert_eq!((tried.waiting, tried.taken), (2, 0), "{tried:?}");
    assert!(tried.error.as_ref().is_some_and(|error| error.contains("row of `flaky@1`")), "{tried:?}");
    let refused = running.rebuild_key("flaky", "A0").await;
    assert!(
        matches!(&refused, Err(StoreError::Parked { reason, .. }) if reason.contains("row of `flaky@1`")),
        "{refused:?}"
    );
    assert_eq!(store.read_model::<Flaky>().get("A0").await?, Some(Flaky { sum: 10.0 }));

    MENDED.store(true, Ordering::SeqCst);
    let tried = letters.try_run("A0").await?;
    assert_eq!((tried.waiting, tried.taken, &tried.error), (2, 2, &None), "{tried:?}");
    let sum = |row: Option<serde_json::Value>| row.and_then(|row| row["sum"].as_f64());
    assert_eq!((sum(tried.before), sum(tried.after)), (Some(10.0), Some(22.0)));
    assert_eq!(store.read_model::<Flaky>().get("A0").await?, Some(Flaky { sum: 10.0 }), "nothing has happened");
    assert_eq!(letters.list().await?.len(), 2);
    running.rebuild_key("flaky", "A0").await?;
    assert_eq!(store.read_model::<Flaky>().get("A0").await?, Some(Flaky { sum: 22.0 }));
    assert_eq!(letters.list().await?, []);
    store.execute(&ids[0], Deposit { amount: 7 }).await?;
    equals_the_log::<Flaky>(store, &running).await?;
    equals_the_log::<Balance>(store, &running).await?;

    // A new release tries what the one before could not take in, if it is asked to.
    MENDED.store(false, Ordering::SeqCst);
    let waits = store.execute(&ids[1], Deposit { amount: 7 }).await?;
    super::parked::reached(&running, waits.position).await?;
    assert_eq!(letters.list().await?.len(), 1);
    running.stop().await;
    MENDED.store(true, Ordering::SeqCst);
    let running = Runner::new(store).read_model::<Flaky>().retry_at_start().lease(Duration::from_millis(300)).start();
    while !letters.list().await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.read_model::<Flaky>().get("A1").after(waits.position).await?, Some(Flaky { sum: 17.0 }));
    running.stop().await;
    assert!(matches!(letters.try_run("A0").await, Err(StoreError::Behind { .. })), "nobody is there to answer");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_pages_go_on_in_the_table_that_takes_the_place_of_the_one_they_began_in() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    open(store, 12).await?;
    let running = Runner::new(store).read_model::<Balance>().start();
    running.until(store.head().await?).await?;
    let balances = store.read_model::<Balance>();
    let list = || balances.list().order_by("balance").limit(5);
    let keys = |rows: Vec<(String, Balance)>| rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    let whole = keys(balances.list().order_by("balance").await?);
    assert_eq!(whole.len(), 12);

    let first = list().page().await?;
    running.rebuild("balance").await?.wait().await?;
    running.promote("balance").await?;
    let second = list().from_cursor(first.next.clone().ok_or("no second page")?).page().await?;
    running.rollback("balance").await?;
    let third = list().from_cursor(second.next.clone().ok_or("no third page")?).page().await?;
    assert_eq!(third.next, None);
    let pages = [first.rows, second.rows, third.rows].map(keys).concat();
    assert_eq!(pages, whole);

    // A new version: the older program goes on in its own table, and the newer one refuses its cursors.
    let newer = Runner::new(store).read_model::<Balance2>().start();
    newer.until(store.head().await?).await?;
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while by_sql(&world).await?.is_some_and(|columns| columns.len() < 3) {
        assert!(tokio::time::Instant::now() < until, "readers are not sent to the new version");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let cursor = first.next.ok_or("no second page")?;
    let rest = balances.list().order_by("balance").from_cursor(cursor.clone()).await?;
    assert_eq!(keys(rest), whole[5..]);
    let refused = store.read_model::<Balance2>().list().order_by("balance").limit(5).from_cursor(cursor).page().await;
    assert!(matches!(refused, Err(StoreError::Invalid(Invalid::Request(_)))), "{refused:?}");
    newer.stop().await;
    running.stop().await;
    Ok(())
}

#[tokio::test]
async fn p4_what_is_kept_for_a_rollback_is_neither_paused_nor_resumed() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    open(store, 2).await?;
    let running = Runner::new(store).read_model::<Balance>().start();
    running.until(store.head().await?).await?;
    let rebuild = running.rebuild("balance").await?;
    rebuild.wait().await?;
    running.promote("balance").await?;
    for refused in [running.pause(rebuild.name()).await, running.resume(rebuild.name()).await] {
        assert!(
            matches!(&refused, Err(StoreError::Invalid(Invalid::Request(why))) if why.contains("kept")),
            "{refused:?}"
        );
    }
    running.rollback("balance").await?;
    equals_the_log::<Balance>(store, &running).await?;
    running.stop().await;
    Ok(())
}
