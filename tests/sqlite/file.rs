//! The file: shared with other handles and processes, locked by others, damaged, or written by an earlier release.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use eventstore::{
    Column, EventStore, Expected, Id, Invalid, Kind, Position, ReadModelVersions, RunReadModels, Runner, SqliteStore,
    Store, StoreError, Table, Version,
    doctor::Severity,
    sqlx::{self, AssertSqlSafe, Connection, SqliteConnection},
    testing::Clock,
};
use futures::{TryStreamExt, future::join_all};

use crate::{
    account::{Account, AccountEvent::*, *},
    cases::{
        World,
        balances::Balance,
        campus::{Course, OpenCourse},
        golden,
    },
    damaged,
};

type Any = Box<dyn std::error::Error>;

async fn other(path: &std::path::Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o1_many_may_open_a_new_file_at_once_and_write_to_it() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    // Each handle has connections of its own, as another process would.
    let handles = (0..8).map(|_| tokio::spawn(SqliteStore::open(path.clone())));
    let stores: Vec<Store> = join_all(handles).await.into_iter().map(|store| store.unwrap().unwrap().into()).collect();
    let ann = Id::<Account>::from("ann");
    stores[0].execute(&ann, Open { owner: "Ann".into() }).await?;
    let deposits = stores.iter().flat_map(|store| {
        (0..5).map(|_| tokio::spawn(store.execute(&ann, Deposit { amount: 1 }).retries(500).into_future()))
    });
    for deposit in deposits.collect::<Vec<_>>() {
        deposit.await??;
    }
    let account = stores[7].load(&ann).await?;
    assert_eq!((account.balance, account.version), (40, Version(41)));
    Ok(())
}

#[tokio::test]
async fn what_another_handle_appends_is_followed() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let (here, there) = (Store::from(SqliteStore::open(&path).await?), Store::from(SqliteStore::open(&path).await?));
    let runner = Runner::new(&here).read_model::<Balance>().start();
    let ann = Id::<Account>::from("ann");
    let opened = there.execute(&ann, Open { owner: "Ann".into() }).await?;
    tokio::time::timeout(Duration::from_secs(5), runner.until(opened.position)).await??;
    assert!(there.read_model::<Balance>().get(&ann).await?.is_some());
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_file_that_others_keep_locked_is_busy_and_nothing_is_written() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let store = Store::from(SqliteStore::open(&path).await?);
    let mut other = other(&path).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await?;
    let start = Instant::now();
    let busy = store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await;
    assert!(matches!(busy, Err(eventstore::CommandError::Store(StoreError::Busy(_)))), "{busy:?}");
    assert!(busy.is_err_and(|error| error.is_retryable()));
    assert!(start.elapsed() > Duration::from_secs(2), "it waited and tried again");
    assert_eq!(store.head().await?, Position(0), "readers wait for nobody");
    sqlx::query("ROLLBACK").execute(&mut other).await?;
    store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    Ok(())
}

#[tokio::test]
async fn a8_a_dropped_transaction_frees_the_file_for_others() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let (here, there) = (SqliteStore::open(&path).await?, SqliteStore::open(&path).await?);
    drop(here.begin().await?);
    // Nobody here writes again; and nobody there has to wait for that.
    let append = Store::from(there);
    let append = append.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() });
    tokio::time::timeout(Duration::from_secs(2), append.into_future()).await.expect("the file is free")?;
    Ok(())
}

#[tokio::test]
async fn bad_files_and_urls_are_typed_errors() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let noise = folder.path().join("noise.db");
    std::fs::write(&noise, "this is no database, and long enough to be taken for one".repeat(100))?;
    let damaged = SqliteStore::open(&noise).await.err();
    assert!(matches!(damaged, Some(StoreError::Damaged(_))), "{damaged:?}");
    assert!(damaged.is_some_and(|error| error.to_string().contains("noise.db`: ")), "it says which file");
    assert!(std::fs::read_to_string(&noise)?.starts_with("this is"), "it is left as it was");

    for (file, parameters, why) in [
        (folder.path().join("no/such/folder/log.db"), "", "its folder is not there"),
        (folder.path().join("absent.db"), "?mode=rw", "there is no such file"),
        (folder.path().to_owned(), "", "it is a folder"),
    ] {
        let refused = eventstore::connect(&format!("sqlite://{}{parameters}", file.display())).await.err();
        let Some(StoreError::Denied(_)) = refused else { panic!("{refused:?}") };
        let refused = refused.expect("seen a line ago");
        assert!(!refused.is_retryable());
        assert_eq!(refused.to_string(), format!("the store cannot be used: `{}`: {why}", file.display()));
    }
    let read_only = folder.path().join("read-only.db");
    SqliteStore::open(&read_only).await?;
    let read_only = eventstore::connect(&format!("sqlite://{}?mode=ro", read_only.display())).await?;
    assert_eq!(read_only.head().await?, Position(0), "what may not be written may be read");
    let refused = read_only.append(Id::<Account>::from("ann"), Expected::Any, [Closed]).await.err();
    assert!(matches!(&refused, Some(error @ StoreError::Denied(_)) if !error.is_retryable()), "{refused:?}");
    assert!(matches!(SqliteStore::open(":memory:").await.err(), Some(StoreError::Invalid(Invalid::Url(_)))));
    for url in [
        "sqlite::memory:",
        "sqlite://:memory:",
        "sqlite:memory:",
        "sqlite://memory:",
        "sqlite://",
        "sqlite:",
        "SQLITE:",
        "sqlite://?mode=rwc",
        "memory:bank",
        "memory://bank",
        "sqlite://?mode=memory",
        "sqlite://log.db?mode=nonsense",
        "mysql://root:secret@x/y",
        "bank.db",
        "c:\\bank.db",
    ] {
        let refused = eventstore::connect(url).await.err();
        let Some(StoreError::Invalid(Invalid::Url(why))) = refused else { panic!("{url}: {refused:?}") };
        assert!(!why.contains("secret"), "{why}");
    }
    assert!(matches!(SqliteStore::open("").await.err(), Some(StoreError::Invalid(Invalid::Url(_)))));
    for url in ["memory:", "memory://", "MEMORY:"] {
        eventstore::connect(url).await?;
    }
    let odd = folder.path().join("a mode=rw :memory: file?.db");
    eventstore::connect(&format!("SQLite://{}", odd.display().to_string().replace('?', "%3f"))).await?;
    assert!(odd.exists());
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_damaged_while_it_is_open_says_so() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let store = SqliteStore::open(&path).await?;
    let ann = Id::<Account>::from("ann");
    let events = (0..2_000).map(|_| Deposited { amount: 1 });
    Store::from(store).append(&ann, Expected::Any, events).await?;
    let mut other = other(&path).await;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut other).await?;
    other.close().await?;
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 3;
    bytes[middle..middle * 2].fill(0x5a);
    let broken = folder.path().join("broken.db");
    std::fs::write(&broken, bytes)?;
    let store = Store::from(SqliteStore::open(&broken).await?);
    let loaded = store.load(&ann).await;
    assert!(matches!(loaded, Err(StoreError::Damaged(_))), "{loaded:?}");
    Ok(())
}

#[tokio::test]
async fn x3_events_cannot_be_changed_or_deleted() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let store = Store::from(SqliteStore::open(&path).await?);
    store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    let mut other = other(&path).await;
    store.execute(Id::<Course>::from("rust"), OpenCourse { seats: 1 }).await?;
    let replace = |position, version, event_id| {
        format!(
            "REPLACE INTO eventstore_events SELECT {position}, {version}, recorded_at, occurred_at, type_key, schema, \
             {event_id}, stream, tags, metadata, x'7b7d' FROM eventstore_events WHERE position = 1"
        )
    };
    let log: Vec<_> = store.read().raw().try_collect().await?;
    for sql in [
        "UPDATE eventstore_events SET version = 2".to_owned(),
        "DELETE FROM eventstore_events".into(),
        "UPDATE eventstore_tags SET tag = 'course:other'".into(),
        "DELETE FROM eventstore_tags".into(),
        "INSERT INTO eventstore_tags VALUES ('course:other', 1)".into(),
        // Also for the last event, which has tags of its own.
        "INSERT INTO eventstore_tags SELECT 'course:other', max(position) FROM eventstore_events".into(),
        "INSERT OR IGNORE INTO eventstore_tags SELECT 'course:other', max(position) FROM eventstore_events".into(),
        "UPDATE eventstore_types SET name = 'other'".into(),
        "DELETE FROM eventstore_types".into(),
        "REPLACE INTO eventstore_types SELECT type_key, category, 'other' FROM eventstore_types LIMIT 1".into(),
        "REPLACE INTO eventstore_types (type_key, category, name) SELECT 99, category, name FROM eventstore_types"
            .into(),
        "REPLACE INTO eventstore_types (category, name) SELECT category, name FROM eventstore_types".into(),
        replace("position", "99", "randomblob(16)"),
        replace("99", "version", "randomblob(16)"),
        replace("99", "99", "event_id"),
        "UPDATE OR REPLACE eventstore_events SET position = 2".into(),
    ] {
        let refused = sqlx::query(AssertSqlSafe(&*sql)).execute(&mut other).await.expect_err(&sql);
        assert!(refused.to_string().contains("append-only"), "{sql}: {refused}");
    }
    let after: Vec<_> = store.read().raw().try_collect().await?;
    assert_eq!(after, log);

    // Their tags can be given anew, and the guard is what it was.
    assert_eq!(store.retag::<crate::cases::campus::CampusEvent>().await?.changed, 0);
    let events = vec![eventstore::NewTags { position: Position(1), id: log[0].id, was: vec![], tags: vec![] }];
    assert_eq!(store.as_ref().retag(events).await?, 0, "it has no tags");
    let event = log.last().expect("an event");
    let events = vec![eventstore::NewTags {
        position: event.position,
        id: event.id,
        was: event.data.tags.clone(),
        tags: vec![],
    }];
    assert_eq!(store.as_ref().retag(events).await?, 1);
    for sql in ["UPDATE eventstore_events SET tags = '[]'", "INSERT INTO eventstore_tags VALUES ('course:other', 1)"] {
        let refused = sqlx::query(sql).execute(&mut other).await.expect_err(sql);
        assert!(refused.to_string().contains("append-only"), "{sql}: {refused}");
    }
    assert_eq!(store.doctor().await?.get("guard").map(|guard| guard.severity), Some(eventstore::doctor::Severity::Ok));
    Ok(())
}

#[tokio::test]
async fn p1_a_table_that_was_dropped_is_not_filled_from_the_middle() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let store = Store::from(SqliteStore::open(&path).await?);
    let ann = Id::<Account>::from("ann");
    let opened = store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let runner = Runner::new(&store).read_model::<Balance>().start();
    runner.until(opened.position).await?;
    sqlx::query("DROP TABLE \"balance@1\"").execute(&mut other(&path).await).await?;
    let deposited = store.execute(&ann, Deposit { amount: 1 }).await?;
    assert!(matches!(runner.until(deposited.position).await, Err(StoreError::Stopped { .. })));
    runner.stop().await;
    let again = Runner::new(&store).read_model::<Balance>().start();
    let stopped = again.until(deposited.position).await.err().map(|error| error.to_string());
    let why = "`balance@1` cannot run: its table is gone and its checkpoint is not: raise its version";
    assert_eq!(stopped.as_deref(), Some(why));
    again.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_index_that_is_asked_for_later_is_made() -> Result<(), Any> {
    let world = crate::world().await;
    let pool: &sqlx::SqlitePool = world.inner.database().downcast_ref().expect("SQLite");
    let columns = |index| &*vec![Column { name: "owner", kind: Kind::Text, index, optional: false }].leak();
    for (index, indexes) in [(false, 0), (true, 1), (true, 1), (false, 1)] {
        let table = Table { name: "owners", version: 1, columns: columns(index), shadow: false };
        world.inner.create(&table).await?;
        world.inner.index(&table).await?;
        let sql = "SELECT count(*) FROM sqlite_schema WHERE tbl_name = 'owners@1' AND type = 'index'";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(pool).await?;
        assert_eq!(count, indexes);
    }
    Ok(())
}

#[tokio::test]
async fn the_doctor_says_whether_the_file_is_a_safe_place() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let store = Store::from(SqliteStore::open(&path).await?);
    let ann = Id::<Account>::from("ann");
    store.append(&ann, Expected::Any, (0..2_000).map(|_| Deposited { amount: 1 })).await?;
    let report = store.doctor().await?;
    assert_eq!(report.severity(), Severity::Ok, "{report}");
    let checks: Vec<_> = report.findings.iter().map(|finding| finding.check).filter(|c| *c != "file_system").collect();
    let expected =
        ["access", "synchronous", "journal_mode", "wal", "sqlite", "integrity", "guard", "positions", "stamps"];
    assert_eq!(checks, expected);

    // Somebody takes the guard away, and an event.
    let mut other = other(&path).await;
    sqlx::query("DROP TRIGGER eventstore_events_delete").execute(&mut other).await?;
    sqlx::query("DELETE FROM eventstore_events WHERE position = 7").execute(&mut other).await?;
    let report = store.doctor().await?;
    let dangers: Vec<_> = report.problems().iter().map(|finding| finding.check).collect();
    assert_eq!((report.severity(), dangers), (Severity::Danger, vec!["guard", "positions"]));

    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut other).await?;
    other.close().await?;
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 3;
    bytes[middle..middle * 2].fill(0x5a);
    let broken = folder.path().join("broken.db");
    std::fs::write(&broken, bytes)?;
    let report = SqliteStore::open(&broken).await?.doctor().await?;
    assert_eq!(report.get("integrity").map(|finding| finding.severity), Some(Severity::Danger), "{report}");
    Ok(())
}

#[tokio::test]
async fn p8_an_event_that_breaks_the_rules_stops_what_hears_of_it_and_nothing_else() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let world = World::new(Arc::new(SqliteStore::open(&path).await?), None, ());
    let insert = async |stream: &str, name: Option<&str>, tags: &str, metadata: &[u8]| {
        let insert = "INSERT INTO eventstore_events
                      SELECT max(position) + 1, (SELECT count(*) + 1 FROM eventstore_events WHERE stream = ?1),
                             max(recorded_at), max(recorded_at),
                             coalesce((SELECT type_key FROM eventstore_types WHERE name = ?2), 999), 1, randomblob(16), ?1,
                             ?3, ?4, CAST('{\"amount\":1000}' AS BLOB)
                        FROM eventstore_events";
        let tags = if tags.is_empty() { "[]".to_owned() } else { format!("[\"{tags}\"]") };
        let insert = sqlx::query(insert).bind(stream).bind(name).bind(tags).bind(metadata);
        insert.execute(&mut other(&path).await).await.map(drop)
    };
    damaged::events_that_break_the_rules(&world, insert).await
}

#[tokio::test]
async fn x6_a_guard_that_was_changed_is_found() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let whole = folder.path().join("whole.db");
    let store = SqliteStore::open(&whole).await?;
    Store::from(store.clone()).execute(Id::<Course>::from("rust"), OpenCourse { seats: 1 }).await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut other(&whole).await).await?;
    let guard = async |path: &std::path::Path| -> Result<(Severity, String), Any> {
        let report = SqliteStore::open(path).await?.doctor().await?;
        let guard = report.get("guard").expect("guard");
        Ok((guard.severity, guard.found.clone()))
    };
    assert_eq!(guard(&whole).await?.0, Severity::Ok);
    let triggers = sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name");
    let triggers: Vec<String> = triggers.fetch_all(&mut other(&whole).await).await?;
    assert_eq!(triggers.len(), 9);
    let gone = triggers.iter().map(|name| (format!("DROP TRIGGER {name}"), format!("trigger {name} is gone")));
    let narrowed =
        "DROP TRIGGER eventstore_events_update; CREATE TRIGGER eventstore_events_update BEFORE UPDATE OF schema ON
                    eventstore_events BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END";
    let silent = "DROP TRIGGER eventstore_events_delete; CREATE TRIGGER eventstore_events_delete BEFORE DELETE ON
                  eventstore_events WHEN false BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END";
    let more = "CREATE TRIGGER swallow BEFORE INSERT ON eventstore_events BEGIN SELECT RAISE(IGNORE); END";
    let others = [
        (narrowed, "trigger eventstore_events_update was replaced"),
        (silent, "trigger eventstore_events_delete was replaced"),
        (more, "trigger swallow is not of this library"),
    ];
    let others = others.map(|(sql, found)| (sql.to_owned(), found.to_owned()));
    for ((sql, found), n) in gone.chain(others).zip(0..) {
        let path = folder.path().join(format!("{n}.db"));
        std::fs::copy(&whole, &path)?;
        sqlx::raw_sql(AssertSqlSafe(&*sql)).execute(&mut other(&path).await).await?;
        assert_eq!(guard(&path).await?, (Severity::Danger, found), "{sql}");
    }
    Ok(())
}

#[tokio::test]
async fn t3_stamps_ahead_of_the_clock_are_found() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let (path, clock) = (folder.path().join("log.db"), Clock::new());
    let (ann, fast) = (Id::<Account>::from("ann"), SqliteStore::with_clock(&path, &clock).await?);
    Store::from(fast.clone()).execute(&ann, Open { owner: "Ann".into() }).await?;
    clock.advance(Duration::from_secs(3_600));
    Store::from(fast.clone()).execute(&ann, Deposit { amount: 1 }).await?;
    assert_eq!(fast.doctor().await?.get("stamps").map(|stamps| stamps.severity), Some(Severity::Ok));
    // The clock is right again, and what is recorded from now on has the stamp of the wrong hour.
    let right = SqliteStore::open(&path).await?;
    Store::from(right.clone()).execute(&ann, Deposit { amount: 1 }).await?;
    let report = right.doctor().await?;
    let stamps = report.get("stamps").expect("stamps");
    assert_eq!(stamps.severity, Severity::Warning, "{report}");
    assert!(stamps.found.starts_with("positions 2 to 3 are stamped ahead of the clock"), "{report}");
    Ok(())
}

#[tokio::test]
async fn t3_an_append_of_another_process_is_waited_for_and_a_file_that_can_only_be_read_does_not_claim_it()
-> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let (here, there) = (SqliteStore::open(&path).await?, SqliteStore::open(&path).await?);
    let ann = Id::<Account>::from("ann");
    Store::from(here.clone()).append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    let reading = eventstore::connect(&format!("sqlite://{}?mode=ro", path.display())).await?;
    let tx = Store::from(there).begin().await?;
    let open = tx.append(&ann, Expected::Any, [Deposited { amount: 2 }]).await?.recorded_at;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let here = Store::from(here);
    let asked = tokio::spawn({
        let (here, ann) = (here.clone(), ann.clone());
        async move { here.load(&ann).as_of(open).await }
    });
    let unsettled = reading.load(&ann).as_of(open).await?;
    assert_eq!((unsettled.balance, unsettled.settled), (1, false), "it cannot wait, and says so");
    assert!(!reading.prefix_at(open).await?.settled);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!asked.is_finished(), "the end of what is open is waited for");
    tx.commit().await?;
    let settled = asked.await??;
    assert_eq!((settled.balance, settled.settled), (3, true));
    here.append(&ann, Expected::Any, [Deposited { amount: 4 }]).await?;
    let later = reading.load(&ann).as_of(open).await?;
    assert_eq!((later.balance, later.settled), (3, true), "a later event shows that nothing else can come");
    Ok(())
}

#[tokio::test]
async fn the_log_is_shown_to_people_as_json_whatever_is_in_it() -> Result<(), Any> {
    let world = crate::world().await;
    golden::write(&world).await?;
    let pool: &sqlx::SqlitePool = world.inner.database().downcast_ref().expect("SQLite");
    let shown: Vec<(String, String, Option<String>)> =
        sqlx::query_as("SELECT stream, event, data FROM eventstore_log ORDER BY position").fetch_all(pool).await?;
    assert_eq!(shown.len(), 9);
    assert_eq!(shown[3].2.as_deref(), Some(r#"{"amount":100}"#));
    assert_eq!(shown[7], ("odd-it's/\"here\"".into(), "it's odd".into(), None));
    Ok(())
}

#[tokio::test]
async fn t1_a_clock_that_jumps_back_changes_nothing() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let (path, clock) = (folder.path().join("log.db"), Clock::new());
    let fast = Store::from(SqliteStore::with_clock(&path, &clock).await?);
    clock.advance(Duration::from_secs(3_600));
    let ann = Id::<Account>::from("ann");
    let opened = fast.execute(&ann, Open { owner: "Ann".into() }).await?;
    let then = opened.events[0].recorded_at;
    // The clock is an hour back, and the log is not.
    let slow = Store::from(SqliteStore::open(&path).await?);
    let deposited = slow.execute(&ann, Deposit { amount: 100 }).await?;
    assert_eq!(deposited.events[0].recorded_at, then);
    let log: Vec<_> = slow.read().raw().try_collect().await?;
    assert!(log.windows(2).all(|pair| pair[0].recorded_at <= pair[1].recorded_at));
    assert_eq!(slow.position_at(then).await?, Position(2));
    assert_eq!(slow.load(&ann).as_of(clock.now()).await?.balance, 100);
    Ok(())
}

#[tokio::test]
async fn tables_of_somebody_else_are_named_and_left_alone() -> Result<(), Any> {
    for (table, create) in [
        ("eventstore_events", "CREATE TABLE eventstore_events (id INTEGER)"),
        ("eventstore_migrations", "CREATE TABLE eventstore_migrations (id INTEGER)"),
        ("eventstore_log", "CREATE VIEW eventstore_log AS SELECT 1"),
    ] {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("log.db");
        let file = format!("sqlite://{}?mode=rwc", path.display());
        let mut other = SqliteConnection::connect(&file).await?;
        sqlx::query(create).execute(&mut other).await?;
        sqlx::query("CREATE TABLE theirs (id INTEGER)").execute(&mut other).await?;
        let refused = eventstore::connect(&file).await.err();
        let Some(StoreError::Schema(why)) = refused else { panic!("{refused:?}") };
        assert_eq!(
            why,
            format!("`{table}` exists already and is not of this library: it may belong to another program")
        );
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut other).await?;
        assert_eq!(tables, 2);
    }

    // A read model that is called like somebody's table.
    let world = crate::world().await;
    let pool: &sqlx::SqlitePool = world.inner.database().downcast_ref().expect("SQLite");
    let mut connection = pool.acquire().await?;
    sqlx::query("PRAGMA query_only = OFF").execute(&mut *connection).await?;
    sqlx::query("CREATE TABLE \"balance@1\" (id INTEGER)").execute(&mut *connection).await?;
    let refused = world.store.read_model::<Balance>().list().await.expect_err("not ours");
    assert!(
        matches!(refused, StoreError::Columns { .. }) && refused.to_string().contains("of another program"),
        "{refused}"
    );
    Ok(())
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_refused() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    SqliteStore::open(&path).await?;
    let mut other = other(&path).await;
    // One that this release works with is left as it is.
    let add = "INSERT INTO eventstore_migrations (version, checksum, applied_at, works_from) VALUES (?1, 'x', 0, ?2)";
    sqlx::query(add).bind(98).bind("0.1.0").execute(&mut other).await?;
    let store = Store::from(SqliteStore::open(&path).await?);
    store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    for works_from in ["99.0.0", "whatever"] {
        sqlx::query(add).bind(99).bind(works_from).execute(&mut other).await?;
        let refused = SqliteStore::open(&path).await.err();
        let Some(StoreError::Schema(why)) = refused else { panic!("{refused:?}") };
        assert_eq!(why, format!("it has migration 99, which this release does not know: it needs {works_from}"));
        sqlx::query("DELETE FROM eventstore_migrations WHERE version = 99").execute(&mut other).await?;
    }
    Ok(())
}

#[tokio::test]
async fn o1_a_file_that_can_only_be_read_says_which_migrations_are_missing() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("golden.db");
    std::fs::copy(GOLDEN, &path)?;
    sqlx::query("PRAGMA journal_mode = WAL").execute(&mut other(&path).await).await?;
    let refused = eventstore::connect(&format!("sqlite://{}?mode=ro", path.display())).await.err();
    let Some(StoreError::Unmigrated { missing }) = refused else { panic!("{refused:?}") };
    assert_eq!(missing.first().map(|step| &**step), Some("migration 002_snapshots"), "{missing:?}");
    assert!(missing.contains(&"migration 004_log".into()), "{missing:?}");
    Ok(())
}

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/sqlite-1.db");

#[tokio::test]
async fn a_file_of_the_first_release_is_read_and_goes_on() -> Result<(), Any> {
    if std::env::var_os("EVENTSTORE_WRITE_GOLDEN").is_some() {
        let world = crate::world().await;
        golden::write(&world).await?;
        let pool: &sqlx::SqlitePool = world.inner.database().downcast_ref().expect("SQLite");
        let mut connection = pool.acquire().await?;
        sqlx::query("PRAGMA query_only = OFF").execute(&mut *connection).await?;
        std::fs::remove_file(GOLDEN).ok();
        sqlx::query("VACUUM INTO ?1").bind(GOLDEN).execute(&mut *connection).await?;
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("golden.db");
    std::fs::copy(GOLDEN, &path)?;
    let store: Arc<dyn EventStore> = Arc::new(SqliteStore::open(&path).await?);
    golden::read(&World::new(store, None, folder)).await
}

const SHADOWS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/sqlite-1-shadows.db");

/// The tables and views in a file.
async fn tables(connection: &mut SqliteConnection) -> Vec<String> {
    let tables = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') ORDER BY name";
    sqlx::query_scalar(tables).fetch_all(connection).await.unwrap()
}

#[tokio::test]
async fn names_of_the_first_release_become_those_of_this_one() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("golden.db");
    std::fs::copy(SHADOWS, &path)?;
    let store: Arc<dyn EventStore> = Arc::new(SqliteStore::open(&path).await?);
    let names = tables(&mut other(&path).await).await;
    assert!(names.iter().any(|name| name == "balance@1~shadow") && names.iter().any(|name| name == "eventstore_nodes"));
    let old: Vec<_> = names.iter().filter(|name| !name.starts_with("eventstore_") && !name.contains('@')).collect();
    assert!(old.is_empty() && !names.iter().any(|name| name.contains("~beside")), "{names:?}");
    // What opens it again finds nothing to do.
    drop(SqliteStore::open(&path).await?);
    crate::names::shadows_are_renamed(&World::new(store, None, folder)).await
}

#[tokio::test]
async fn a_name_that_is_taken_stops_the_migration_and_is_named() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("golden.db");
    std::fs::copy(SHADOWS, &path)?;
    let mut other = other(&path).await;
    sqlx::query("CREATE TABLE eventstore_requests (id INTEGER)").execute(&mut other).await?;
    let before = tables(&mut other).await;
    let refused = SqliteStore::open(&path).await.err();
    assert!(matches!(&refused, Some(StoreError::Schema(why)) if why.contains("`eventstore_requests`")), "{refused:?}");
    assert_eq!(tables(&mut other).await, before, "nothing is half done");
    // Renamed, the way is free.
    sqlx::query("ALTER TABLE eventstore_requests RENAME TO theirs").execute(&mut other).await?;
    SqliteStore::open(&path).await?;
    Ok(())
}

const ENGINE: [&str; 5] = ["nodes", "projections", "dead_letters", "requests", "reshards"];

#[tokio::test]
async fn tables_of_the_user_may_have_any_name_that_lacks_the_prefix() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    for before in [true, false] {
        let path = folder.path().join(format!("{before}.db"));
        let create = async || -> Result<(), Any> {
            let mut other = SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", path.display())).await?;
            for table in ENGINE {
                let create = format!("CREATE TABLE {table} (id INTEGER); INSERT INTO {table} VALUES (7)");
                sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut other).await?;
            }
            Ok(())
        };
        if before {
            create().await?;
        } else {
            // A file of the first release in which no processor has run.
            std::fs::copy(GOLDEN, &path)?;
            let mut other = other(&path).await;
            for table in ENGINE {
                sqlx::raw_sql(AssertSqlSafe(format!("DROP TABLE {table}"))).execute(&mut other).await?;
            }
            sqlx::raw_sql("DELETE FROM eventstore_checkpoints; DROP TABLE \"balance@1\"").execute(&mut other).await?;
            create().await?;
        }
        let store = Store::from(SqliteStore::open(&path).await?);
        let zoe = Id::<Account>::from("zoe");
        let opened = store.execute(&zoe, Open { owner: "Zoe".into() }).await?;
        let runner = Runner::new(&store).read_model::<Balance>().start();
        runner.until(opened.position).await?;
        assert!(store.read_model::<Balance>().get(&zoe).after(opened.position).await?.is_some());
        runner.rebuild("balance").await?.wait().await?;
        runner.promote("balance").await?;
        runner.stop().await;
        for table in ENGINE {
            let rows = sqlx::query_scalar(AssertSqlSafe(format!("SELECT id FROM {table}")));
            let rows: Vec<i64> = rows.fetch_all(&mut other(&path).await).await?;
            assert_eq!(rows, [7], "{table} is the user's");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_table_with_a_name_of_the_engine_stops_what_runs_and_is_named() -> Result<(), Any> {
    for table in ENGINE {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("log.db");
        let store = Store::from(SqliteStore::open(&path).await?);
        let opened = store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
        let mut other = other(&path).await;
        let create = format!("CREATE TABLE eventstore_{table} (id INTEGER)");
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut other).await?;
        let runner = Runner::new(&store).read_model::<Balance>().start();
        let stopped = tokio::time::timeout(Duration::from_secs(10), runner.until(opened.position)).await?;
        let name = format!("`eventstore_{table}`");
        let Err(error @ StoreError::Stopped { .. }) = stopped else { panic!("{stopped:?}") };
        assert!(error.to_string().contains(&name), "{error}");
        if table == "projections" {
            let refused = runner.pause("balance").await.err();
            assert!(matches!(&refused, Some(StoreError::Schema(why)) if why.contains(&name)), "{refused:?}");
        }
        // Once it is out of the way, the node goes on by itself.
        let rename = format!("ALTER TABLE eventstore_{table} RENAME TO theirs");
        sqlx::raw_sql(AssertSqlSafe(rename)).execute(&mut other).await?;
        let built = async {
            while store.read_model::<Balance>().get("ann").await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), built).await?;
        runner.stop().await;
    }
    Ok(())
}

/// A store, and what takes its events after a position away.
async fn forking() -> Result<(World, impl AsyncFn(Position)), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let store = SqliteStore::open(path.clone()).await?;
    let mut connection = other(&path).await;
    for guard in ["eventstore_events_delete", "eventstore_tags_delete"] {
        sqlx::raw_sql(AssertSqlSafe(format!("DROP TRIGGER {guard}"))).execute(&mut connection).await?;
    }
    let lose = async move |after: Position| {
        let delete = format!("DELETE FROM eventstore_events WHERE position > {after}");
        sqlx::raw_sql(AssertSqlSafe(delete)).execute(&mut other(&path).await).await.unwrap();
    };
    Ok((World::new(Arc::new(store), None, folder), lose))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_a_log_that_lost_its_end_stops_what_follows_it() -> Result<(), Any> {
    let (world, lose) = forking().await?;
    crate::forks::a_log_that_lost_its_end_stops_what_follows_it(world, lose).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r8_a_relay_whose_log_lost_its_end_stops() -> Result<(), Any> {
    let (world, lose) = forking().await?;
    crate::forks::a_relay_whose_log_lost_its_end_stops(world, lose).await
}
