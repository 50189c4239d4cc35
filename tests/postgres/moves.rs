//! Logs that are dumped and restored, replicated, or brought back to an earlier moment: what goes on is right, and what
//! cannot go on says so.

use std::{path::Path, process::Command, sync::Arc};

use eventstore::{
    EventStore, Expected, Id, PgOptions, PgStore, Position, RunReadModels, Runner, Store, StoreError,
    doctor::Severity,
    sqlx::{self, AssertSqlSafe, Connection, PgConnection},
};
use futures::TryStreamExt;
use uuid::Uuid;

use crate::{
    account::*,
    cases::{World, balances::Balance, golden, raw},
    server::{self, Own},
};

type Any = Box<dyn std::error::Error>;

async fn run(url: &str, sql: &str) -> Result<(), Any> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

async fn number(url: &str, sql: &str) -> Result<i64, Any> {
    let mut connection = PgConnection::connect(url).await?;
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await?)
}

/// A database that is dropped in the end.
struct Database {
    url: String,
    name: String,
    admin: String,
}

impl Database {
    async fn new() -> Result<Self, Any> {
        Self::on(server::url(), &server::url_of(&Self::free())).await
    }

    fn free() -> String {
        format!("moves_{}", Uuid::now_v7().simple())
    }

    async fn on(admin: &str, url: &str) -> Result<Self, Any> {
        let name = url.split(['/', '?']).find(|part| part.starts_with("moves_")).expect("it is named").to_owned();
        run(admin, &format!("CREATE DATABASE {name}")).await?;
        Ok(Self { url: url.into(), name, admin: admin.into() })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let _ = Command::new(server::program("psql")).args(["-Xqc", &sql, &self.admin]).output();
    }
}

/// A program of PostgreSQL's, which must succeed.
fn tool(name: &str, arguments: &[&str]) -> Result<Vec<u8>, Any> {
    let output = Command::new(server::program(name)).args(arguments).output()?;
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

fn dump(from: &Database, file: &Path, arguments: &[&str]) -> Result<(), Any> {
    let file = file.display().to_string();
    tool("pg_dump", &[arguments, &["--file", &file, "--dbname", &from.url]].concat()).map(drop)
}

fn restore(file: &Path, to: &Database) -> Result<(), Any> {
    let file = file.display().to_string();
    tool("psql", &["-XqAt", "--set=ON_ERROR_STOP=1", "--single-transaction", "--file", &file, &to.url]).map(drop)
}

fn options() -> PgOptions {
    PgStore::options().max_connections(5)
}

/// Everything there is to store, in a database of its own.
async fn golden() -> Result<Database, Any> {
    let database = Database::new().await?;
    let store = options().connect(&database.url).await?;
    golden::write(&World::new(Arc::new(store.clone()), None, ())).await?;
    store.close().await?;
    Ok(database)
}

/// The doctor finds no danger, everything is there, and what goes on is right.
async fn goes_on(url: &str) -> Result<Store, Any> {
    let pg = options().connect(url).await?;
    let report = pg.doctor().await?;
    // A server for tests does not flush.
    let dangers = report.findings.iter().filter(|finding| {
        finding.severity == Severity::Danger && !["fsync", "full_page_writes"].contains(&finding.check)
    });
    assert_eq!(dangers.count(), 0, "{report}");
    golden::read(&World::new(Arc::new(pg.clone()), None, ())).await?;
    let store = Store::from(pg.clone());
    // Event types that are new here, as many as there were.
    for n in 0..20 {
        let stream = "odd-new".parse()?;
        let event = raw(&format!("new {n}"), b"{}");
        let write = eventstore::Write { stream, expected: Expected::Any, events: vec![event] };
        let append = eventstore::Append { writes: vec![write], ..eventstore::Append::default() };
        pg.append(append).await?;
    }
    let log: Vec<_> = store.read().raw().try_collect().await?;
    let positions: Vec<_> = log.iter().map(|event| event.position.0).collect();
    assert_eq!(positions, (1..=log.len() as u64).collect::<Vec<_>>());
    let names = log.iter().filter(|event| event.data.name.starts_with("new ")).count();
    assert_eq!(names, 20, "each has the type it was appended with");
    let removed = run(url, "DELETE FROM eventstore.events").await;
    assert!(removed.is_err(), "the guard came along");
    Ok(store)
}

#[tokio::test]
async fn a_dump_that_is_restored_goes_on() -> Result<(), Any> {
    let from = golden().await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("dump");

    let plain = Database::new().await?;
    dump(&from, &file, &[])?;
    restore(&file, &plain)?;
    goes_on(&plain.url).await?;

    let custom = Database::new().await?;
    dump(&from, &file, &["--format=custom"])?;
    tool("pg_restore", &["--exit-on-error", "--jobs=2", "--dbname", &custom.url, &file.display().to_string()])?;
    goes_on(&custom.url).await?;

    // The schema and the data, one after the other.
    let parts = Database::new().await?;
    for part in ["--schema-only", "--data-only"] {
        dump(&from, &file, &[part])?;
        restore(&file, &parts)?;
    }
    goes_on(&parts.url).await?;
    Ok(())
}

#[tokio::test]
async fn the_events_alone_are_restored_into_a_log_that_was_made_new() -> Result<(), Any> {
    let from = golden().await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("dump");
    let to = Database::new().await?;
    options().connect(&to.url).await?.close().await?;
    dump(&from, &file, &["--data-only", "--table=eventstore.event_types", "--table=eventstore.events"])?;
    restore(&file, &to)?;
    // No rows and no checkpoints came along: read models are built from the first event on.
    let store = Store::from(options().connect(&to.url).await?);
    assert_eq!(store.head().await?, Position(9));
    let runner =
        Runner::new(&store).read_model::<Balance>().read_model::<crate::cases::projections::Enrolled>().start();
    runner.until(store.head().await?).await?;
    runner.stop().await;
    goes_on(&to.url).await?;
    Ok(())
}

#[tokio::test]
async fn one_log_of_two_is_restored_with_its_rows_or_says_that_they_are_not_there() -> Result<(), Any> {
    let from = Database::new().await?;
    let log = |name: &str| options().schema(name).tables_schema(format!("{name}_rows"));
    let ann = Id::<Account>::from("ann");
    for (name, amount) in [("bank", 1), ("shop", 10)] {
        let store = Store::from(log(name).connect(&from.url).await?);
        let runner = Runner::new(&store).read_model::<Balance>().start();
        store.execute(&ann, Open { owner: name.into() }).await?;
        let last = store.execute(&ann, Deposit { amount }).await?;
        runner.until(last.position).await?;
        runner.stop().await;
        store.close().await?;
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("dump");

    let whole = Database::new().await?;
    dump(&from, &file, &["--schema=bank", "--schema=bank_rows"])?;
    restore(&file, &whole)?;
    let store = Store::from(log("bank").connect(&whole.url).await?);
    let runner = Runner::new(&store).read_model::<Balance>().start();
    let last = store.execute(&ann, Deposit { amount: 1 }).await?;
    runner.until(last.position).await?;
    assert_eq!(store.read_model::<Balance>().get(&ann).await?, Some(Balance { owner: "bank".into(), balance: 2 }));
    assert_eq!(number(&whole.url, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'shop%'").await?, 0);
    runner.stop().await;

    // Without its rows, a read model does not go on from the middle.
    let log_only = Database::new().await?;
    dump(&from, &file, &["--schema=bank"])?;
    restore(&file, &log_only)?;
    let store = Store::from(log("bank").connect(&log_only.url).await?);
    let runner = Runner::new(&store).read_model::<Balance>().start();
    let last = store.execute(&ann, Deposit { amount: 1 }).await?;
    let stopped = runner.until(last.position).await;
    let Err(StoreError::Stopped { projection, .. }) = &stopped else { panic!("{stopped:?}") };
    assert_eq!(projection, "balance@1");
    assert!(store.read_model::<Balance>().get(&ann).await.is_err());
    runner.stop().await;
    // Without its checkpoints, everything is built from the first event on.
    run(&log_only.url, "DELETE FROM bank.checkpoints").await?;
    let runner = Runner::new(&store).read_model::<Balance>().start();
    runner.until(last.position).await?;
    assert_eq!(store.read_model::<Balance>().get(&ann).await?.map(|row| row.balance), Some(2));
    runner.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_replicated_into_another_database_goes_on() -> Result<(), Any> {
    let (own, admin) = Own::with("-c wal_level=logical");
    let database = |name: &str| admin.replace("/postgres?", &format!("/{name}?"));
    let (from, to) = (Database::free(), Database::free());
    let from = Database::on(&admin, &database(&from)).await?;
    let to = Database::on(&admin, &database(&to)).await?;
    let world = World::new(Arc::new(options().connect(&from.url).await?), None, ());
    golden::write(&world).await?;

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("schema");
    dump(&from, &file, &["--schema-only"])?;
    restore(&file, &to)?;
    run(&from.url, "CREATE PUBLICATION moves FOR ALL TABLES").await?;
    run(&from.url, "SELECT pg_create_logical_replication_slot('moves', 'pgoutput')").await?;
    let host = admin.split_once("host=").map_or("", |(_, host)| host);
    let subscribe = format!(
        "CREATE SUBSCRIPTION moves CONNECTION 'host={host} user=postgres dbname={}' PUBLICATION moves \
         WITH (create_slot = false, slot_name = 'moves')",
        from.name
    );
    run(&to.url, &subscribe).await?;
    let head = world.store.head().await?.0.cast_signed();
    let arrived = async {
        let (events, at) =
            ("SELECT count(*) FROM eventstore.events", "SELECT min(position) FROM eventstore.checkpoints");
        // All tables, those of the migrations among them: each is copied by itself.
        let copied = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
        while number(&to.url, copied).await.unwrap() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        while number(&to.url, events).await.unwrap() < head || number(&to.url, at).await.unwrap_or(0) < head {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), arrived).await?;
    world.store.close().await?;
    run(&to.url, "ALTER SUBSCRIPTION moves DISABLE").await?;
    run(&to.url, "ALTER SUBSCRIPTION moves SET (slot_name = NONE)").await?;
    run(&to.url, "DROP SUBSCRIPTION moves").await?;
    run(&from.url, "SELECT pg_drop_replication_slot('moves')").await?;
    // Sequences are not replicated.
    run(
        &to.url,
        "SELECT setval(pg_get_serial_sequence('eventstore.event_types', 'type_key'), max(type_key))
           FROM eventstore.event_types",
    )
    .await?;
    goes_on(&to.url).await?;
    drop((from, to));
    drop(own);
    Ok(())
}

/// A server that was brought back to an earlier moment of another.
struct Restored<'a> {
    own: &'a Own,
    data: String,
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        self.own.script(&["as", "pg_ctl", "-D", &self.data, "-m", "immediate", "-w", "stop"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_a_log_that_is_brought_back_to_an_earlier_moment_goes_on_from_there() -> Result<(), Any> {
    let (own, admin) = Own::with("-c fsync=off");
    let (url, home) = admin.split_once("host=").expect("a socket");
    let store = Store::from(options().connect(&admin).await?);
    let ann = Id::<Account>::from("ann");
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let data = format!("{home}/restored");
    own.script(&["as", "pg_basebackup", "-D", &data, "-h", home, "-U", "postgres", "-c", "fast"]);
    let runner = Runner::new(&store).read_model::<Balance>().start();
    let deposit = async |amount: i64| -> Result<Position, Any> {
        let last = store.execute(&ann, Deposit { amount }).await?.position;
        runner.until(last).await?;
        Ok(last)
    };
    deposit(1).await?;
    let kept = deposit(2).await?;
    run(&admin, "SELECT pg_create_restore_point('before')").await?;
    deposit(10).await?;
    let lost = deposit(20).await?;
    run(&admin, "SELECT pg_switch_wal()").await?;

    let settings = format!(
        "restore_command = 'cp {home}/data/pg_wal/%f %p'\nrecovery_target_name = 'before'\n\
         recovery_target_action = 'promote'\nunix_socket_directories = '{data}'\nlisten_addresses = ''\n\
         max_connections = 300\nfsync = off\n"
    );
    let mut configuration = std::fs::OpenOptions::new().append(true).open(format!("{data}/postgresql.auto.conf"))?;
    std::io::Write::write_all(&mut configuration, settings.as_bytes())?;
    std::fs::write(format!("{data}/recovery.signal"), "")?;
    own.script(&["as", "pg_ctl", "-D", &data, "-l", &format!("{data}/said"), "-w", "start"]);
    let _restored = Restored { own: &own, data: data.clone() };
    let restored = format!("{url}host={data}");
    let primary = async {
        while number(&restored, "SELECT pg_is_in_recovery()::int::bigint").await.unwrap_or(1) == 1 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), primary).await?;

    // Rows and checkpoints are in the same database: all of it is of one moment, and goes on from there.
    let again = Store::from(options().connect(&restored).await?);
    assert_eq!((again.head().await?, lost), (kept, Position(kept.0 + 2)));
    let rows = again.read_model::<Balance>();
    let running = Runner::new(&again).read_model::<Balance>().start();
    running.until(kept).await?;
    assert_eq!(rows.get(&ann).await?.map(|row| row.balance), Some(3));
    let next = again.execute(&ann, Deposit { amount: 100 }).await?;
    assert_eq!(next.position, Position(kept.0 + 1), "as another event of the other one");
    running.until(next.position).await?;
    assert_eq!(rows.list().await?, rows.at_position(next.position).list().await?);
    assert_eq!((rows.get(&ann).await?.map(|row| row.balance), again.load(&ann).await?.balance), (Some(103), 103));
    running.stop().await;
    runner.stop().await;
    Ok(())
}
