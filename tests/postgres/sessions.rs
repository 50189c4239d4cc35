//! Connections: with odd defaults, broken in the middle, refused, or only one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use eventstore::{
    CommandError, Durability, EventStore, Expected, Id, Invalid, PgStore, Position, RunReadModels, Runner,
    ScheduleCommands, Store, StoreError, Unscheduled, Version,
    sqlx::{self, AssertSqlSafe},
    testing::Clock,
};
use futures::{TryStreamExt, future::join_all};
use uuid::Uuid;

use crate::{
    account::{Account, AccountEvent, *},
    cases::{
        World,
        balances::*,
        campus::*,
        golden,
        scheduled::{add, note},
        snapshots,
    },
    server,
};

type Any = Box<dyn std::error::Error>;

#[tokio::test]
async fn a9_sessions_may_have_any_defaults() -> Result<(), Any> {
    let odd = [
        "default_transaction_isolation=serializable",
        "default_transaction_read_only=on",
        "synchronous_commit=off",
        "search_path=nowhere",
        "DateStyle=German",
        "TimeZone=Pacific/Kiritimati",
        "IntervalStyle=iso_8601",
        "bytea_output=escape",
        "standard_conforming_strings=off",
        "plan_cache_mode=force_custom_plan",
        "statement_timeout=30000",
        "lock_timeout=20000",
    ];
    let options: String = odd.iter().map(|setting| format!("-c%20{}%20", setting.replace('/', "%2F"))).collect();
    let url = server::url_with(&format!("options={options}"));
    for isolation in ["serializable", "repeatable%5C%20read"] {
        let url = url.replace("serializable", isolation);
        // Made, and used, in such sessions only.
        let store: Arc<dyn EventStore> = Arc::new(PgStore::options().schema(server::schema()).connect(&url).await?);
        let world = World::new(store, None, ());
        golden::write(&world).await?;
        golden::read(&world).await?;
        snapshots::kept_and_used(&world.store).await?;
    }
    Ok(())
}

#[tokio::test]
async fn t1_a_state_is_that_of_its_position_whatever_a_process_knows_of_the_log() -> Result<(), Any> {
    let schema = server::schema();
    let open = async || -> Result<Store, StoreError> {
        Ok(PgStore::options().schema(&schema).connect(server::url()).await?.into())
    };
    let (store, ann, bob) = (open().await?, Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    let deposits = |n: i64| (0..n).map(|_| AccountEvent::Deposited { amount: 1 });
    let other = open().await?;
    // More than a page of it, and as much as is a page.
    for (key, events) in [("short", 3), ("page", 1_000), ("long", 2_500)] {
        let id = Id::<Account>::from(key);
        store.append(&id, Expected::Any, deposits(events)).await?;
        store.append(&ann, Expected::Any, deposits(1)).await?;
        // One that has just begun, one that has not looked since the log was empty, one that has appended all.
        for reader in [&open().await?, &other, &store] {
            let loaded = reader.load(&id).await?;
            assert_eq!((loaded.version, loaded.balance), (Version(events as u64), events), "{key}");
            let nobody = reader.load(&bob).await?;
            assert_eq!(nobody.version, Version(0));
            // More comes, of this one and of others: what it was then is what it was.
            let again = reader.load(&id).at_position(loaded.position).await?;
            assert_eq!(again, loaded, "{key}");
            assert!(reader.load(&bob).at_position(nobody.position).await?.version == Version(0));
        }
        let before = other.load(&id).await?;
        store.append(&id, Expected::Any, deposits(1)).await?;
        assert_eq!(other.load(&id).at_position(before.position).await?, before, "{key}");
        assert_eq!(other.load(&id).await?.version, Version(events as u64 + 1), "{key}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o2_one_connection_is_enough_to_read_and_append_at_once() -> Result<(), Any> {
    let store = PgStore::options().schema(server::schema()).max_connections(1).connect(server::url()).await?;
    let (store, ann) = (Store::from(store), Id::<Account>::from("ann"));
    store.append(&ann, Expected::Any, (0..3_000).map(|amount| AccountEvent::Deposited { amount })).await?;
    for backwards in [false, true] {
        let read = store.read().stream(&ann).until_version(Version(3_000));
        let mut events = if backwards { read.backwards() } else { read }.events::<AccountEvent>();
        let mut seen = 0;
        while let Some(event) = events.try_next().await? {
            // Wherever the next page is: not looked for yet, on its way, or here.
            if event.version.0 % 100 == 1 {
                let append = store.append(&ann, Expected::Any, [AccountEvent::Closed]).caused_by(&event);
                tokio::time::timeout(Duration::from_secs(5), append).await.expect("nobody keeps the connection")?;
            }
            seen += 1;
        }
        assert_eq!(seen, 3_000);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o2_one_connection_is_enough() -> Result<(), Any> {
    let store = PgStore::options().schema(server::schema()).max_connections(1).connect(server::url()).await?;
    let store = Store::from(store);
    snapshots::kept_and_used(&store).await?;
    let runner = Runner::new(&store).read_model::<Balance>().read_model::<Turnover>().start();
    let rust = Id::<Course>::from("rust");
    store.execute(&rust, OpenCourse { seats: 100 }).await?;
    let work = (0..6).map(|n| {
        let (store, rust) = (store.clone(), rust.clone());
        tokio::spawn(async move {
            let (account, student) = (Id::<Account>::from(format!("A{n}")), Id::<Student>::from(format!("S{n}")));
            store.execute(&account, Open { owner: "x".into() }).await.unwrap();
            store.execute(&student, Join).await.unwrap();
            store.execute((&rust, &student), Enrol).retries(100).await.unwrap();
            let done = store.execute(&account, Deposit { amount: 1 }).await.unwrap();
            assert_eq!(store.load(&account).await.unwrap().balance, 1);
            assert_eq!(store.history(&account).try_collect::<Vec<_>>().await.unwrap().len(), 2);
            let row = store.read_model::<Balance>().get(&account).after(done.position).await.unwrap();
            assert_eq!(row.map(|row| row.balance), Some(1));
        })
    });
    let all = tokio::time::timeout(Duration::from_secs(30), join_all(work)).await.expect("nobody waits for itself");
    all.into_iter().for_each(|one| one.unwrap());
    assert_eq!(store.load(&rust).await?.free(), 94);
    runner.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o2_no_more_connections_than_were_allowed() -> Result<(), Any> {
    for allowed in [1, 2, 3, 4, 5, 6] {
        let name = server::schema();
        let url = server::url_with(&format!("application_name={name}"));
        let options = PgStore::options().schema(name.clone()).durability(Durability::Pipelined);
        let store = Store::from(options.max_connections(allowed).connect(&url).await?);
        let over = Arc::new(AtomicBool::new(false));
        let counter = tokio::spawn({
            let over = over.clone();
            async move {
                let (mut connection, mut most) = (server::connection().await, 0);
                let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
                while !over.load(Ordering::SeqCst) {
                    let now: i64 = sqlx::query_scalar(count).bind(&name).fetch_one(&mut connection).await.unwrap();
                    most = most.max(now);
                }
                most
            }
        });
        // Two who follow, while others load and append.
        let followers: Vec<_> = (0..2)
            .map(|_| {
                let (store, over) = (store.clone(), over.clone());
                tokio::spawn(async move {
                    let mut head = Position(0);
                    while !over.load(Ordering::SeqCst) {
                        store.as_ref().appended(head).await;
                        head = store.head().await.unwrap();
                    }
                })
            })
            .collect();
        let work = (0..24).map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let account = Id::<Account>::from(format!("A{n}"));
                store.execute(&account, Open { owner: "x".into() }).await.unwrap();
                for _ in 0..20 {
                    store.execute(&account, Deposit { amount: 1 }).await.unwrap();
                    store.load(&account).await.unwrap();
                }
            })
        });
        join_all(work).await.into_iter().for_each(|one| one.unwrap());
        over.store(true, Ordering::SeqCst);
        store.append(Id::<Account>::from("last"), Expected::Any, [AccountEvent::Closed]).await?;
        join_all(followers).await.into_iter().for_each(|one| one.unwrap());
        let most = counter.await?;
        assert!((1..=i64::from(allowed)).contains(&most), "{most} of {allowed}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_a_connection_that_breaks_loses_nothing_and_records_nothing_twice() -> Result<(), Any> {
    let name = server::schema();
    let url = server::url_with(&format!("application_name={name}"));
    let store = Store::from(PgStore::options().schema(name.clone()).max_connections(4).connect(&url).await?);
    let ann = Id::<Account>::from("ann");
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let (running, done) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let killer = tokio::spawn({
        let (running, done) = (running.clone(), done.clone());
        async move {
            let mut connection = server::connection().await;
            let (mut killed, mut before) = (0, 0);
            while running.load(Ordering::SeqCst) {
                // On a busy machine no connection lives long enough to do anything: then it is left alone until one has.
                let since = Instant::now();
                while done.load(Ordering::SeqCst) == before && since.elapsed() < Duration::from_millis(500) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                before = done.load(Ordering::SeqCst);
                let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1";
                killed += sqlx::query_scalar::<_, i64>(kill).bind(&name).fetch_one(&mut connection).await.unwrap();
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
            killed
        }
    });
    let writers = (0..4).map(|_| {
        let (store, ann, done) = (store.clone(), ann.clone(), done.clone());
        tokio::spawn(async move {
            let (mut sure, mut unsure) = (0, 0);
            for _ in 0..40 {
                let id = Uuid::now_v7();
                // Whatever is said of a connection, the same command id may be tried again.
                let outcome = loop {
                    match store.execute(&ann, Deposit { amount: 1 }).command_id(id).retries(500).await {
                        Err(CommandError::Store(StoreError::Unavailable(_))) => {}
                        other => break other,
                    }
                };
                done.fetch_add(1, Ordering::SeqCst);
                match outcome {
                    Ok(_) => sure += 1,
                    Err(CommandError::Store(StoreError::Unknown(_))) => unsure += 1,
                    Err(other) => panic!("{other:?}"),
                }
            }
            (sure, unsure)
        })
    });
    let outcomes: Vec<(i64, i64)> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
    running.store(false, Ordering::SeqCst);
    assert!(killed_some(killer.await?), "the test must have broken something");
    let (sure, unsure) = outcomes.iter().fold((0, 0), |(a, b), (sure, unsure)| (a + sure, b + unsure));
    // Connections that broke after the last call are still in the pool: the first reads find them.
    let balance = loop {
        match store.load(&ann).await {
            Ok(account) => break account.balance,
            Err(StoreError::Unavailable(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    };
    assert!((sure..=sure + unsure).contains(&balance), "{sure} acknowledged, {unsure} unknown, {balance} recorded");
    Ok(())
}

#[tokio::test]
async fn a6_an_append_over_a_connection_that_broke_is_sent_again() -> Result<(), Any> {
    let name = server::schema();
    let url = server::url_with(&format!("application_name={name}"));
    let store = Store::from(PgStore::options().schema(name.clone()).max_connections(1).connect(&url).await?);
    let ann = Id::<Account>::from("ann");
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    for n in 1..=3 {
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1";
        let kill = sqlx::query_scalar::<_, i64>(kill).bind(&name);
        assert_eq!(kill.fetch_one(&mut server::connection().await).await?, 1);
        let done = store.append(&ann, Expected::Any, [AccountEvent::Deposited { amount: 1 }]).await?;
        assert_eq!(done.last, Position(1 + n));
    }
    Ok(())
}

/// A pool that is used up by transactions has no second connection for what happens in them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m5_a_command_is_scheduled_in_a_transaction_that_has_the_only_connection() -> Result<(), Any> {
    let options = PgStore::options().schema(server::schema()).max_connections(1);
    let store = Store::from(options.connect(server::url()).await?);
    store.scheduled().prepare().await?;
    let ann = note("ann");
    let tx = store.begin().await?;
    tx.execute(&ann, add("one")).await?;
    tx.schedule(&ann, add("two")).id("c").await?;
    tx.schedule(&ann, add("three")).id("d").await?;
    assert_eq!(tx.unschedule("d").await?, Unscheduled::Cancelled);
    tx.commit().await?;
    let left: Vec<_> = store.scheduled().list(10).await?.into_iter().map(|one| one.id).collect();
    assert_eq!(left, ["c"]);
    Ok(())
}

fn killed_some(killed: i64) -> bool {
    killed > 3
}

#[tokio::test]
async fn what_cannot_be_reached_is_a_typed_error_and_no_password_is_told() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let down = format!("postgres://user:secret@localhost/x?host={}", folder.path().display());
    let start = Instant::now();
    let socket = folder.path().display().to_string();
    for (url, server) in [
        (&*down, &*socket),
        ("postgres://user:secret@127.0.0.1:9/x", "127.0.0.1:9"),
        ("postgres://user:secret@no.such.host.invalid/x", "no.such.host.invalid:5432"),
    ] {
        let refused = eventstore::connect(url).await.expect_err("nobody is there");
        assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
        let which = format!("the store is unavailable: database `x` at {server} as `user`: ");
        assert!(refused.to_string().starts_with(&which), "{refused}");
        assert!(refused.is_retryable() && !format!("{refused:?} {refused}").contains("secret"), "{refused:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(8), "it says so at once");

    for (wrong, why) in [
        ("postgres@localhost/no_such_database?", "database \"no_such_database\" does not exist"),
        ("no_such_role@localhost/postgres?", "role \"no_such_role\" does not exist"),
    ] {
        let elsewhere = server::url().replacen("postgres@localhost/postgres?", wrong, 1);
        if elsewhere != server::url() {
            let refused = eventstore::connect(&elsewhere).await.expect_err("it is not there");
            assert!(matches!(refused, StoreError::Denied(_)) && !refused.is_retryable(), "{refused:?}");
            assert!(refused.to_string().ends_with(why), "{refused}");
        }
    }
    for url in ["postgres://user:secret@host:port/x", "postgres://user:secret@[bad/x"] {
        let refused = eventstore::connect(url).await.expect_err("not a URL");
        assert!(matches!(refused, StoreError::Invalid(Invalid::Url(_))), "{refused:?}");
        assert!(!format!("{refused:?}").contains("secret"), "{refused:?}");
    }
    for schema in ["", "1st", "Upper", "a-b", "a\"b", &"x".repeat(64)] {
        let refused = PgStore::options().schema(schema).connect(server::url()).await.err();
        assert!(matches!(refused, Some(StoreError::Invalid(Invalid::Name { .. }))), "{refused:?}");
    }
    Ok(())
}

#[tokio::test]
async fn s3_an_open_transaction_of_somebody_else_delays_no_reader() -> Result<(), Any> {
    let (clock, pg) = (Clock::new(), server::fresh().await);
    let schema = pg.schema().to_owned();
    let store = Store::from(pg);
    let mut other = server::connection().await;
    sqlx::query("BEGIN").execute(&mut other).await?;
    // It has written, and so has a transaction id; and it stays open.
    let table = format!("CREATE TABLE {schema}.mine (x int)");
    sqlx::query(AssertSqlSafe(table)).execute(&mut other).await?;
    let runner = Runner::new(&store).read_model::<Balance>().start();
    let before = clock.now();
    let opened = store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    tokio::time::timeout(Duration::from_secs(5), runner.until(opened.position)).await.expect("no delay")?;
    assert!(opened.position == Position(1) && opened.events[0].recorded_at + Duration::from_secs(60) > before);
    runner.stop().await;
    sqlx::query("ROLLBACK").execute(&mut other).await?;
    Ok(())
}

#[tokio::test]
async fn a_parameter_of_the_url_that_is_unknown_is_refused() -> Result<(), Any> {
    for (parameters, named) in [
        ("sslmod=require", true),
        ("SSLMODE=require", true),
        ("sslmode=require&ssl_root=x", true),
        ("ssl%6Dode=require", false),
        ("&=x", false),
    ] {
        let url = server::url();
        let url = format!("{url}{}{parameters}", if url.contains('?') { '&' } else { '?' });
        let refused = PgStore::connect(&url).await.err();
        let Some(StoreError::Invalid(Invalid::Url(why))) = refused else { panic!("{parameters}: {refused:?}") };
        let name = parameters.rsplit('&').next().and_then(|one| one.split('=').next()).unwrap_or_default();
        assert_eq!(why.contains(&format!("`{name}`")), named, "{why}");
    }
    // A `?` in a password that was not escaped is no name to be shown.
    let refused = PgStore::connect("postgres://user:hun?tiger=2@localhost/x").await.err();
    let Some(StoreError::Invalid(Invalid::Url(why))) = refused else { panic!("{refused:?}") };
    assert!(!why.contains("tiger"), "{why}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_a_store_is_closed_when_what_has_begun_is_done() -> Result<(), Any> {
    let schema = server::schema();
    let options = PgStore::options().schema(&schema);
    let store = Store::from(options.clone().connect(server::url()).await?);
    let ann = Id::<Account>::from("ann");
    let runner = Runner::new(&store).read_model::<Balance>().start();
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    runner.until(store.head().await?).await?;
    runner.stop().await;
    let appends = (0..64).map(|n| {
        let (store, account) = (store.clone(), Id::<Account>::from(format!("A{n}")));
        tokio::spawn(async move { store.execute(&account, Open { owner: "x".into() }).await })
    });
    let appends: Vec<_> = appends.collect();
    tokio::task::yield_now().await;
    store.close().await?;
    let mut recorded = 1;
    for append in appends {
        match append.await? {
            Ok(_) => recorded += 1,
            // It came too late.
            Err(eventstore::CommandError::Store(StoreError::Denied(_))) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    for refused in [store.head().await.err(), store.load(&ann).await.err(), store.begin().await.err()] {
        assert!(matches!(&refused, Some(error @ StoreError::Denied(_)) if !error.is_retryable()), "{refused:?}");
    }
    store.close().await?;
    // A session of the server ends a moment after its connection.
    crate::cases::sagas::until(async || {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE $1 AND pid <> pg_backend_pid()";
        let count = sqlx::query_scalar::<_, i64>(count).bind(format!("%{schema}%"));
        Ok(count.fetch_one(&mut server::connection().await).await? == 0)
    })
    .await?;
    let other = Store::from(options.connect(server::url()).await?);
    assert_eq!(other.head().await?.0, recorded);
    Ok(())
}
