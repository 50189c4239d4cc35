//! A file that is closed and copied; and one that is moved, removed or replaced under an open store.

use std::{path::Path, time::Duration};

use eventstore::{
    Expected, Id, Invalid, Position, RunReadModels, Runner, SqliteStore, Store, StoreError, doctor::Severity,
};

use crate::{
    account::{Account, AccountEvent::*},
    cases::balances::Balance,
};

type Any = Box<dyn std::error::Error>;

const EVENTS: u64 = 2_000;

fn ann() -> Id<Account> {
    Id::from("ann")
}

/// A log of some hundred kB: less than SQLite writes into the file by itself.
async fn fill(store: &Store) -> Result<(), StoreError> {
    store.append(ann(), Expected::Any, (0..EVENTS).map(|_| Deposited { amount: 1 })).await.map(drop)
}

/// What a copy of the one file has, as soon as the program has ended.
async fn copied(path: &Path) -> Result<Position, Any> {
    let copy = path.with_extension("copy.db");
    std::fs::copy(path, &copy)?;
    let store = Store::from(SqliteStore::open(&copy).await?);
    let report = store.doctor().await?;
    assert_eq!(report.severity(), Severity::Ok, "{report}");
    assert_eq!(store.load(ann()).await?.balance as u64, store.head().await?.0);
    Ok(store.head().await?)
}

#[tokio::test]
async fn a1_the_file_of_a_closed_store_has_everything() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bank.db");
    let store = Store::from(SqliteStore::open(&path).await?);
    fill(&store).await?;
    let clone = store.clone();
    let wal = store.doctor().await?;
    assert!(wal.get("wal").is_some_and(|wal| wal.severity == Severity::Ok && wal.found.contains("kB")), "{wal}");
    store.close().await?;
    assert_eq!(copied(&path).await?, Position(EVENTS));
    // Nothing of it can be used any more, and to close it again is no error.
    for store in [&store, &clone] {
        for refused in [fill(store).await.err(), store.load(ann()).await.err(), store.begin().await.err()] {
            assert!(matches!(&refused, Some(error @ StoreError::Denied(_)) if !error.is_retryable()), "{refused:?}");
        }
        store.close().await?;
    }
    // Another handle goes on.
    let store = Store::from(SqliteStore::open(&path).await?);
    fill(&store).await?;
    let wal = store.doctor().await?;
    store.close().await?;
    assert_eq!(copied(&path).await?, Position(2 * EVENTS), "{wal}");
    Ok(())
}

#[tokio::test]
async fn a1_a_store_is_closed_when_what_has_begun_is_done() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bank.db");
    let store = Store::from(SqliteStore::open(&path).await?);
    fill(&store).await?;
    let tx = store.begin().await?;
    tx.append(ann(), Expected::Any, [Deposited { amount: 1 }]).await?;
    let late = store.close().await;
    assert!(matches!(&late, Err(error @ StoreError::Busy(_)) if error.is_retryable()), "{late:?}");
    // It was not closed, and what was open goes on.
    let close = store.close();
    let commit = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        tx.commit().await
    };
    let (closed, committed) = tokio::join!(close, commit);
    committed?;
    closed?;
    assert_eq!(copied(&path).await?, Position(EVENTS + 1));
    let within = Store::from(SqliteStore::open(&path).await?);
    let refused = within.begin().await?.close().await.err();
    assert!(matches!(refused, Some(StoreError::Invalid(Invalid::Request(_)))), "{refused:?}");
    Ok(())
}

/// Programs that end without closing the store, each in a runtime of its own.
#[test]
fn a1_the_file_of_a_program_that_has_ended_has_everything() -> Result<(), Any> {
    type Program = fn(Store) -> futures::future::BoxFuture<'static, Result<(), StoreError>>;
    let programs: [(&str, u64, Program); 5] = [
        ("ends", EVENTS, |store| Box::pin(async move { fill(&store).await })),
        ("drops a transaction", EVENTS, |store| {
            Box::pin(async move {
                fill(&store).await?;
                let tx = store.begin().await?;
                tx.append(ann(), Expected::Any, [Deposited { amount: 1 }]).await.map(drop)
            })
        }),
        ("forgets a transaction", EVENTS, |store| {
            Box::pin(async move {
                fill(&store).await?;
                let tx = store.begin().await?;
                tx.append(ann(), Expected::Any, [Deposited { amount: 1 }]).await?;
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(3_600)).await;
                    drop(tx);
                });
                Ok(())
            })
        }),
        ("has a runner", EVENTS, |store| {
            Box::pin(async move {
                let runner = Runner::new(&store).read_model::<Balance>().start();
                fill(&store).await?;
                runner.until(Position(EVENTS)).await
            })
        }),
        ("reads", EVENTS, |store| {
            Box::pin(async move {
                fill(&store).await?;
                let mut log = store.read().raw();
                futures::TryStreamExt::try_next(&mut log).await.map(drop)
            })
        }),
    ];
    for threads in [1, 2] {
        for (name, events, program) in programs {
            let folder = tempfile::tempdir()?;
            let path = folder.path().join("bank.db");
            let mut runtime = match threads {
                1 => tokio::runtime::Builder::new_current_thread(),
                _ => tokio::runtime::Builder::new_multi_thread(),
            };
            let runtime = runtime.enable_all().build()?;
            runtime.block_on(async { program(SqliteStore::open(&path).await?.into()).await })?;
            drop(runtime);
            let head = tokio::runtime::Runtime::new()?.block_on(copied(&path))?;
            assert_eq!(head, Position(events), "a program that {name}, on {threads} threads");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a1_a_store_that_is_dropped_leaves_others_of_the_file_alone() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bank.db");
    let (here, there) = (Store::from(SqliteStore::open(&path).await?), Store::from(SqliteStore::open(&path).await?));
    fill(&here).await?;
    let tx = there.begin().await?;
    tx.append(ann(), Expected::Any, [Deposited { amount: 1 }]).await?;
    drop(here);
    tx.commit().await?;
    fill(&there).await?;
    drop(there);
    assert_eq!(copied(&path).await?, Position(2 * EVENTS + 1));
    Ok(())
}

type Move = fn(&Path) -> std::io::Result<()>;

/// What is done to a file whose store is open.
const MOVES: [(&str, Move); 5] = [
    ("removed", |path| std::fs::remove_file(path)),
    ("renamed", |path| std::fs::rename(path, path.with_extension("elsewhere"))),
    ("replaced by a backup", |path| std::fs::rename(path.with_extension("backup"), path)),
    ("removed with its write-ahead log", |path| {
        std::fs::remove_file(path)?;
        std::fs::remove_file(path.with_extension("db-wal"))
    }),
    ("without its write-ahead log", |path| std::fs::remove_file(path.with_extension("db-wal"))),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_a_file_that_was_moved_away_takes_nothing_and_gives_nothing() -> Result<(), Any> {
    for (how, moves) in MOVES {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("bank.db");
        let before = Store::from(SqliteStore::open(path.with_extension("backup")).await?);
        before.append(ann(), Expected::Any, [Deposited { amount: 1 }]).await?;
        before.close().await?;
        let store = Store::from(SqliteStore::open(&path).await?);
        fill(&store).await?;
        let runner = Runner::new(&store).read_model::<Balance>().lease(Duration::from_millis(200)).start();
        runner.until(Position(EVENTS)).await?;
        let open = store.begin().await?;
        open.append(ann(), Expected::Any, [Deposited { amount: 1 }]).await?;
        moves(&path)?;
        let refused = |error: Option<StoreError>| {
            let Some(error @ StoreError::Denied(_)) = error else { panic!("{how}: {error:?}") };
            assert!(!error.is_retryable() && error.to_string().contains("bank.db"), "{how}: {error}");
        };
        refused(open.commit().await.err());
        refused(store.append(ann(), Expected::Any, [Closed]).await.err());
        refused(store.begin().await.err());
        refused(store.load(ann()).await.err());
        refused(store.head().await.err());
        refused(store.read_model::<Balance>().list().await.err());
        let report = store.doctor().await?;
        assert_eq!(report.get("file").map(|file| file.severity), Some(Severity::Danger), "{how}: {report}");
        let told = async {
            while !runner.status()[0].error.as_ref().is_some_and(|error| error.to_string().contains("bank.db")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), told).await?;
        runner.stop().await;
    }
    Ok(())
}

#[tokio::test]
async fn a1_the_file_that_took_the_place_of_another_is_not_harmed_by_it() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bank.db");
    let old = SqliteStore::open(&path).await?;
    fill(&old.clone().into()).await?;
    let backup = Store::from(SqliteStore::open(path.with_extension("backup")).await?);
    backup.append(ann(), Expected::Any, [Deposited { amount: 1 }]).await?;
    backup.close().await?;
    // As it is to be done: with what belongs to the old file out of the way.
    for extension in ["db-wal", "db-shm"] {
        std::fs::remove_file(path.with_extension(extension))?;
    }
    std::fs::rename(path.with_extension("backup"), &path)?;
    let new = Store::from(SqliteStore::open(&path).await?);
    assert_eq!(new.head().await?, Position(1));
    new.append(ann(), Expected::Any, [Deposited { amount: 1 }]).await?;
    // A program that was forgotten ends.
    let closed = old.close().await;
    assert!(closed.is_ok(), "{closed:?}");
    drop(old);
    new.append(ann(), Expected::Any, [Deposited { amount: 1 }]).await?;
    assert_eq!(new.load(ann()).await?.balance, 3);
    drop(new);
    assert_eq!(copied(&path).await?, Position(3));
    Ok(())
}

#[tokio::test]
async fn the_doctor_says_that_a_file_is_read_only() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bank.db");
    let store = Store::from(SqliteStore::open(&path).await?);
    fill(&store).await?;
    store.close().await?;
    for parameters in ["mode=ro", "mode=ro&immutable=true"] {
        let url = format!("sqlite://{}?{parameters}", path.display());
        let store = eventstore::connect(&url).await?;
        assert_eq!(store.head().await?, Position(EVENTS));
        let report = store.doctor().await?;
        assert_eq!(report.severity(), Severity::Danger, "{report}");
        assert_eq!(report.get("access").map(|access| access.severity), Some(Severity::Danger), "{report}");
        let refused = store.append(ann(), Expected::Any, [Closed]).await.err();
        assert!(matches!(refused, Some(StoreError::Denied(_))), "{refused:?}");
    }
    let refused = eventstore::connect(&format!("sqlite://{}?sslmod=require", path.display())).await.err();
    assert!(
        matches!(&refused, Some(StoreError::Invalid(Invalid::Url(why))) if why.contains("`sslmod`")),
        "{refused:?}"
    );
    Ok(())
}
