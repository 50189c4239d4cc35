//! Servers that go away, come back, are read-only for a while, or are replaced by another that lacks the end of the log.

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use eventstore::{
    CommandError, Durability, Expected, Id, PgStore, Position, RunReadModels, Runner, Store, StoreError, Version,
    sqlx::{self, AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions},
};
use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{UnixListener, UnixStream},
    time::sleep,
};

use crate::{
    account::{AccountEvent::*, *},
    cases::balances::Balance,
    server::{self, Own},
};

type Any = Box<dyn Error>;

/// The URL of whichever server a link leads to.
fn through(link: &Path) -> String {
    format!("postgres://postgres@localhost/postgres?host={}", link.display())
}

/// The folder of a server's socket.
fn folder(url: &str) -> &Path {
    Path::new(url.split_once("host=").expect("a server on a socket").1)
}

/// Makes a link lead to another server.
fn lead(link: &Path, url: &str) {
    let _ = std::fs::remove_file(link);
    std::os::unix::fs::symlink(folder(url), link).unwrap();
}

fn deposit(amount: i64) -> [AccountEvent; 1] {
    [Deposited { amount }]
}

/// Comes back when a standby has as much of the log as the primary.
async fn caught_up(primary: &str, standby: &str) -> Result<(), Any> {
    let (mut primary, mut standby) = (PgConnection::connect(primary).await?, PgConnection::connect(standby).await?);
    let lsn: String = sqlx::query_scalar("SELECT pg_current_wal_flush_lsn()::text").fetch_one(&mut primary).await?;
    loop {
        let replayed = "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn";
        if sqlx::query_scalar::<_, Option<bool>>(replayed).bind(&lsn).fetch_one(&mut standby).await? == Some(true) {
            return Ok(());
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Finding F6: a server that is down refuses at once, and nothing is unknown that was never sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_a_server_that_is_down_refuses_at_once() -> Result<(), Any> {
    let (server, url) = Own::start();
    let ann = Id::<Account>::from("ann");
    for connections in [1, 2, 5] {
        for durability in [Durability::Strict, Durability::Pipelined] {
            let schema = format!("log_{connections}_{durability:?}").to_lowercase();
            let options = PgStore::options().schema(schema).durability(durability);
            let store = Store::from(options.max_connections(connections).connect(&url).await?);
            store.append(&ann, Expected::Any, deposit(1)).await?;
            server.script(&["down"]);
            for attempt in 0..3 {
                let start = Instant::now();
                let appends = (0..8).map(|_| store.append(&ann, Expected::Any, deposit(1)).into_future());
                for append in join_all(appends).await {
                    let what = format!("{connections} connections, {durability:?}, attempt {attempt}: {append:?}");
                    assert!(
                        matches!(&append, Err(error @ StoreError::Unavailable(_)) if error.is_retryable()),
                        "{what}"
                    );
                }
                let command = store.execute(&ann, Deposit { amount: 1 }).await;
                assert!(matches!(command, Err(CommandError::Store(StoreError::Unavailable(_)))), "{command:?}");
                let loaded = store.load(&ann).await;
                assert!(matches!(loaded, Err(StoreError::Unavailable(_))), "{loaded:?}");
                let begun = store.begin().await.map(drop);
                assert!(matches!(begun, Err(StoreError::Unavailable(_))), "{begun:?}");
                assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
            }
            server.script(&["up"]);
            store.append(&ann, Expected::Version(Version(1)), deposit(1)).await?;
            assert_eq!(store.load(&ann).await?.balance, 2);
        }
    }
    Ok(())
}

/// A connection that was idle while the server was started again is not one to send an append on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_a_restart_is_noticed_before_anything_is_sent() -> Result<(), Any> {
    let (server, url) = Own::start();
    let store = Store::from(PgStore::options().connect(&url).await?);
    let ann = Id::<Account>::from("ann");
    for n in 0..3 {
        join_all((0..8).map(|_| store.append(&ann, Expected::Any, deposit(1)).into_future())).await;
        sleep(Duration::from_millis(1_100)).await;
        server.script(&["crash"]);
        let written = store.append(&ann, Expected::Version(Version(9 * n + 8)), deposit(1)).await?;
        assert!(!written.replayed);
    }
    Ok(())
}

/// Stands between a store and its server, and counts how often a transaction is begun by name.
async fn counting(url: &str) -> Result<(tempfile::TempDir, String, Arc<AtomicUsize>), Any> {
    let options: PgConnectOptions = url.parse()?;
    let socket = options.get_socket().expect("a server on a socket").join(format!(".s.PGSQL.{}", options.get_port()));
    let between = tempfile::tempdir()?;
    let clients = UnixListener::bind(between.path().join(format!(".s.PGSQL.{}", options.get_port())))?;
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = clients.accept().await {
            let (server, counted) = (UnixStream::connect(&socket).await.unwrap(), counted.clone());
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                    let begins = buffer[..n].windows(15).filter(|text| *text == b"BEGIN ISOLATION").count();
                    counted.fetch_add(begins, Ordering::SeqCst);
                    if to_server.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let url = server::url_with(&format!("host={}", between.path().display()));
    Ok((between, url, begun))
}

/// Finding F3: sessions that are read-only for a moment cost what they cost for a moment. Counted: transactions that an
/// append begins by itself, which is two round trips and the lock of the log held over them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a9_sessions_that_are_as_they_should_be_again_are_used_as_before() -> Result<(), Any> {
    let role = format!("role_{}", server::schema());
    let mut owner = server::connection().await;
    let make = format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'x'");
    sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut owner).await?;
    let (_between, url, begun) = counting(server::url()).await?;
    let url = format!("{}&application_name={role}", url.replace("postgres@", &format!("{role}:x@")));
    let store = Store::from(PgStore::options().schema(server::schema()).connect(&url).await?);
    let ann = Id::<Account>::from("ann");
    let writers = async |each: usize| {
        let writers = (0..16).map(|n| {
            let store = store.clone();
            async move {
                for _ in 0..each {
                    store.append(Id::<Account>::from(format!("a{n}")), Expected::Any, deposit(1)).await.unwrap();
                }
            }
        });
        join_all(writers).await;
    };
    writers(5).await;
    begun.store(0, Ordering::SeqCst);
    writers(5).await;
    assert_eq!(begun.load(Ordering::SeqCst), 0, "one statement is enough");
    for odd in ["default_transaction_read_only = on", "default_transaction_isolation = serializable"] {
        let kill = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{role}'");
        let set = format!("ALTER ROLE {role} SET {odd}; {kill}");
        sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut owner).await?;
        sleep(Duration::from_millis(200)).await;
        writers(3).await;
        assert!(begun.load(Ordering::SeqCst) > 0, "{odd}: an append says how its transaction begins");
        sqlx::raw_sql(AssertSqlSafe(format!("ALTER ROLE {role} RESET ALL"))).execute(&mut owner).await?;
        // Sessions live on as they were opened; some are tried, and closed.
        for _ in 0..4 {
            sleep(Duration::from_millis(1_100)).await;
            writers(5).await;
        }
        sleep(Duration::from_millis(1_100)).await;
        begun.store(0, Ordering::SeqCst);
        writers(20).await;
        assert_eq!(begun.load(Ordering::SeqCst), 0, "{odd}: it is over");
    }
    assert_eq!(store.load(&ann).await?.version, Version(0));
    drop(store);
    let kill = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{role}'");
    sqlx::raw_sql(AssertSqlSafe(kill)).execute(&mut owner).await?;
    Ok(())
}

/// Finding F8: a standby can be read; an append says what it is, and succeeds once another server has its name, or once it
/// is promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_a_standby_says_so_until_a_primary_takes_its_place() -> Result<(), Any> {
    let (server, primary) = Own::start();
    let ann = Id::<Account>::from("ann");
    let first = Store::from(PgStore::options().connect(&primary).await?);
    first.execute(&ann, Open { owner: "Ann".into() }).await?;
    first.append(&ann, Expected::Any, deposit(1)).await?;
    let standby = server.script(&["standby"]);
    let links = tempfile::tempdir()?;
    std::fs::set_permissions(links.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let link = links.path().join("server");
    lead(&link, &standby);
    caught_up(&primary, &standby).await?;
    for connections in [1, 10] {
        let store = Store::from(PgStore::options().max_connections(connections).connect(&through(&link)).await?);
        assert_eq!(store.load(&ann).await?.balance, 1, "it can be read");
        for _ in 0..3 {
            for error in [
                store.append(&ann, Expected::Any, deposit(1)).await.err(),
                store.append(Id::<Account>::from("new"), Expected::Any, [Closed]).await.err(),
                store.begin().await.err(),
                match store.execute(&ann, Deposit { amount: 1 }).await {
                    Err(CommandError::Store(error)) => Some(error),
                    other => panic!("{other:?}"),
                },
            ] {
                let Some(error @ StoreError::Unavailable(_)) = error else { panic!("{error:?}") };
                assert!(error.is_retryable());
                assert!(error.to_string().contains("the server is a standby"), "{error}");
            }
        }
        // The name leads to the primary: the store goes on.
        lead(&link, &primary);
        let before = store.load(&ann).await?.version;
        store.append(&ann, Expected::Version(before), deposit(1)).await?;
        lead(&link, &standby);
        caught_up(&primary, &standby).await?;
        // Those that lead to the primary still do.
        first.append(&ann, Expected::Version(Version(before.0 + 1)), deposit(-1)).await?;
        caught_up(&primary, &standby).await?;
    }
    let store = Store::from(PgStore::options().connect(&standby).await?);
    store.append(&ann, Expected::Any, deposit(1)).await.expect_err("it is a standby");
    server.script(&["promote"]);
    store.append(&ann, Expected::Any, deposit(1)).await?;
    Ok(())
}

/// A reader of a standby waits for what was recorded on the primary: that the standby lacks it does not say that it is of
/// another log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s8_a_standby_that_is_behind_waits_for_a_position() -> Result<(), Any> {
    let (server, primary) = Own::start();
    let ann = Id::<Account>::from("ann");
    let store = Store::from(PgStore::options().connect(&primary).await?);
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let runner = Runner::new(&store).read_model::<Balance>().start();
    runner.until(store.head().await?).await?;
    let standby = server.script(&["standby"]);
    caught_up(&primary, &standby).await?;
    let replica = Store::from(PgStore::options().connect(&standby).await?);
    let mut operator = PgConnection::connect(&standby).await?;
    sqlx::raw_sql("SELECT pg_wal_replay_pause()").execute(&mut operator).await?;

    let deposited = store.execute(&ann, Deposit { amount: 5 }).await?;
    runner.until(deposited.position).await?;
    let token = store.token(deposited.position).await?;
    let position = replica.position_of(&token).await?;
    let balances = replica.read_model::<Balance>();
    let behind = balances.get(&ann).after(position).within(Duration::from_millis(50)).await;
    assert!(matches!(&behind, Err(error @ StoreError::Behind { .. }) if error.is_retryable()), "{behind:?}");
    let (row, _) = tokio::join!(balances.get(&ann).after(position), async {
        sleep(Duration::from_millis(50)).await;
        sqlx::raw_sql("SELECT pg_wal_replay_resume()").execute(&mut operator).await
    });
    assert_eq!(row?.map(|row| row.balance), Some(5));
    // The primary has all there is.
    let beyond = Position(position.0 + 1);
    assert!(matches!(store.read_model::<Balance>().get(&ann).after(beyond).await, Err(StoreError::Forked { .. })));
    runner.stop().await;
    Ok(())
}

/// Finding A5: a process lives on through a failover that has lost the end of the log. What it knew of the old server is no
/// place to read from, and no place for a decision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_a_head_that_was_lost_in_a_failover_is_no_place_to_read_from() -> Result<(), Any> {
    let (server, primary) = Own::start();
    let (ann, bob, cem) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"), Id::<Account>::from("cem"));
    let setup = Store::from(PgStore::options().connect(&primary).await?);
    setup.append(&ann, Expected::Any, deposit(1)).await?;
    let standby = server.script(&["standby"]);
    let links = tempfile::tempdir()?;
    std::fs::set_permissions(links.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let link = links.path().join("server");
    lead(&link, &primary);
    caught_up(&primary, &standby).await?;
    // It has one event, and follows no more.
    server.script(&["promote"]);
    let stores = join_all([1, 2, 10].map(async |connections| {
        Store::from(PgStore::options().max_connections(connections).connect(&through(&link)).await.unwrap())
    }))
    .await;
    for store in &stores {
        for _ in 0..10 {
            store.append(&ann, Expected::Any, deposit(10)).await?;
        }
        assert_eq!(store.load(&bob).await?.position, store.head().await?, "it knows the head");
    }
    server.script(&["down"]);
    lead(&link, &standby);
    for store in &stores {
        // Of one that has no event, the position is what the process knows of the log.
        let nothing = store.load(&bob).await?;
        let loaded = store.load(&ann).await?;
        let head = store.head().await?;
        assert_eq!((loaded.balance, head), (1, Position(1)));
        assert!(nothing.position <= head && loaded.position <= head, "{nothing:?} {loaded:?}");
    }
    let [a, b, c] = &stores[..] else { panic!("three") };
    let then = b.load(&cem).await?;
    a.append(&cem, Expected::Any, deposit(7)).await?;
    assert_eq!(b.load(&cem).at_position(then.position).await?.balance, 0, "the past does not change");
    // A decision on what was read before is refused, whichever store it is made on.
    for store in [b, c] {
        let stale = store.execute(&cem, Deposit { amount: 1 }).expecting_position(then.position).await;
        assert!(matches!(stale, Err(CommandError::Conflict(_))), "{stale:?}");
    }
    // Those who wait for news hear of what is recorded now, at positions that the lost end had, too.
    let waiting = b.as_ref().appended(Position(2));
    let told = async {
        sleep(Duration::from_millis(50)).await;
        a.append(&cem, Expected::Any, deposit(1)).await
    };
    let start = Instant::now();
    let ((), written) = futures::future::join(waiting, told).await;
    assert_eq!(written?.last, Position(3));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    Ok(())
}

/// The same where one server crashes and starts its sessions again by itself: what was not on disk is gone, and nothing
/// about the server says that it was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_a_head_that_was_lost_in_a_crash_is_no_place_to_read_from() -> Result<(), Any> {
    let (_server, url) = Own::start();
    let pg = PgStore::options().connect(&url).await?;
    let (store, ann, bob) = (Store::from(pg.clone()), Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    store.append(&ann, Expected::Any, deposit(1)).await?;
    let mut watcher = PgConnection::connect(&url).await?;
    let start: String = sqlx::query_scalar("SELECT pg_postmaster_start_time()::text").fetch_one(&mut watcher).await?;
    let tx = store.begin().await?;
    tx.append(&ann, Expected::Any, deposit(10)).await?;
    // Whoever wants to lose events can: the commit does not wait for the disk.
    sqlx::raw_sql("SET LOCAL synchronous_commit = off").execute(&mut *tx.connection::<PgConnection>().await?).await?;
    tx.commit().await?;
    assert_eq!(store.load(&bob).await?.position, Position(2));
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut watcher).await?;
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    assert!(killed.success());
    let again: String = loop {
        let again = async {
            let mut watcher = PgConnection::connect(&url).await?;
            sqlx::query_scalar("SELECT pg_postmaster_start_time()::text").fetch_one(&mut watcher).await
        };
        match again.await {
            Ok(again) => break again,
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!(again, start, "the server was not started again");
    let nothing = store.load(&bob).await?;
    assert_eq!((store.head().await?, nothing.position), (Position(1), Position(1)));
    let other = Store::from(PgStore::options().connect(&url).await?);
    other.append(&bob, Expected::Any, deposit(5)).await?;
    assert_eq!(store.load(&bob).at_position(nothing.position).await?.balance, 0);
    Ok(())
}
