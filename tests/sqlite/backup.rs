//! Backups that are made while others append, and what becomes of a file that is put in the place of another.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use eventstore::{
    EventStore, Expected, Id, Position, Runner, SqliteStore, Store, StoreError, Subscription,
    doctor::Severity,
    prelude::*,
    sqlx::{self, Connection, SqliteConnection},
};
use futures::TryStreamExt;

use crate::{
    account::{Account, AccountEvent, AccountEvent::*},
    cases::{World, balances::Balance, golden},
};

type Any = Box<dyn std::error::Error>;

/// The command line of SQLite, as an operator has it.
fn sqlite3(file: &Path, command: &str) -> Result<String, Any> {
    let find = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/sqlite3")).output()?;
    assert!(find.status.success(), "{}", String::from_utf8_lossy(&find.stderr));
    let program = String::from_utf8(find.stdout)?;
    let run = Command::new(program.trim()).arg(file).arg(command).output()?;
    assert!(run.status.success(), "{command}: {}", String::from_utf8_lossy(&run.stderr));
    Ok(String::from_utf8(run.stdout)?)
}

/// Appends until it is told to stop. Returns how many events are acknowledged.
async fn write(store: Store, over: Arc<AtomicBool>) -> Result<u64, StoreError> {
    let mut acknowledged = 0;
    while !over.load(Ordering::SeqCst) {
        let account = Id::<Account>::from(format!("A{}", acknowledged % 50));
        store.append(&account, Expected::Any, [Deposited { amount: 1 }]).await?;
        acknowledged += 1;
    }
    Ok(acknowledged)
}

/// A backup is a beginning of the log, with the rows of just that beginning, and goes on from there.
async fn is_whole(backup: &Path, log: &Store) -> Result<Position, Any> {
    let store = Store::from(SqliteStore::open(backup).await?);
    let report = store.doctor().await?;
    assert_eq!(report.severity(), Severity::Ok, "{report}");
    let head = store.head().await?;
    let [here, there] = [&store, log].map(|store| store.read().raw().try_collect::<Vec<_>>());
    let (here, there) = (here.await?, there.await?);
    assert_eq!(here[..], there[..here.len()]);
    let at = store.as_ref().checkpoint("balance@1").await?;
    assert!(at <= head);
    let rows = store.read_model::<Balance>();
    assert_eq!(rows.list().await?, rows.at_position(at).list().await?, "rows are of the checkpoint");
    let runner = Runner::new(&store).read_model::<Balance>().start();
    let next = store.append(Id::<Account>::from("A1"), Expected::Any, [Deposited { amount: 1 }]).await?;
    assert_eq!(next.last, Position(head.0 + 1));
    runner.until(next.last).await?;
    assert_eq!(rows.list().await?, rows.at_position(next.last).list().await?);
    runner.stop().await;
    Ok(head)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_a_backup_that_is_made_while_others_append_is_whole() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bank.db");
    let store = Store::from(SqliteStore::open(&path).await?);
    let runner = Runner::new(&store).read_model::<Balance>().batch(7).start();
    let over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(store.clone(), over.clone()));
    let mut seen = Position(0);
    for n in 0..4 {
        runner.until(Position(seen.0 + 100)).await?;
        let before = store.head().await?;
        let backup = folder.path().join(format!("backup {n}.db"));
        let target = backup.display().to_string();
        match n % 2 {
            0 => drop(sqlite3(&path, &format!(".backup '{target}'"))?),
            _ => {
                let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await?;
                sqlx::query("VACUUM INTO ?1").bind(&target).execute(&mut connection).await?;
            }
        }
        seen = is_whole(&backup, &store).await?;
        assert!(seen >= before, "what was acknowledged before the backup began is in it: {seen}, {before}");
    }
    over.store(true, Ordering::SeqCst);
    assert_eq!(writer.await??, store.head().await?.0);
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn a1_a_backup_has_all_that_can_be_stored() -> Result<(), Any> {
    let world = crate::world().await;
    golden::write(&world).await?;
    let folder = tempfile::tempdir()?;
    let pool: &sqlx::SqlitePool = world.inner.database().downcast_ref().expect("SQLite");
    let file = pool.connect_options().get_filename().to_owned();
    let (backup, dump) = (folder.path().join("backup.db"), folder.path().join("dump.db"));
    sqlite3(&file, &format!(".backup '{}'", backup.display()))?;
    // A dump in SQL is read into a new file.
    let sql = sqlite3(&file, ".dump")?;
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", dump.display())).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await?;
    connection.close().await?;
    for copy in [backup, dump] {
        let store: Arc<dyn EventStore> = Arc::new(SqliteStore::open(&copy).await?);
        let report = store.doctor().await?;
        assert_eq!(report.severity(), Severity::Ok, "{report}");
        golden::read(&World::new(store, None, ())).await?;
    }
    Ok(())
}

/// What has left the file, and so cannot be restored with it.
struct Outside(Arc<std::sync::Mutex<Vec<Position>>>);

impl Subscription for Outside {
    const NAME: &'static str = "outside";
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), eventstore::BoxError> {
        let mut delivered = self.0.lock().map_err(|error| error.to_string())?;
        delivered.extend(events.iter().map(|event| event.position));
        Ok(())
    }
}

#[tokio::test]
async fn s6_a_restored_file_has_its_checkpoints_and_delivers_again_from_there() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bank.db");
    let delivered = Arc::default();
    let ann = Id::<Account>::from("ann");
    let (mut positions, backup) = (vec![], folder.path().join("backup.db"));
    for round in 0..2 {
        let store = Store::from(SqliteStore::open(&path).await?);
        let runner = Runner::new(&store).subscription(Outside(Arc::clone(&delivered))).from_beginning().start();
        for _ in 0..2 {
            let deposited = store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
            positions.push(deposited.last);
            runner.until(deposited.last).await?;
            if round == 0 && deposited.last == Position(1) {
                sqlite3(&path, &format!(".backup '{}'", backup.display()))?;
            }
        }
        runner.stop().await;
        store.close().await?;
        std::fs::copy(&backup, &path)?;
    }
    // Position 2 is another event the second time: the receiver tells them apart by their ids.
    assert_eq!(positions, [1, 2, 2, 3].map(Position));
    assert_eq!(*delivered.lock().map_err(|error| error.to_string())?, positions);
    Ok(())
}

#[tokio::test]
async fn a_file_beside_the_write_ahead_log_of_another_is_damaged_and_says_so() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bank.db");
    let store = Store::from(SqliteStore::open(&path).await?);
    let deposit = async |events: u64| {
        let ann = Id::<Account>::from("ann");
        store.append(&ann, Expected::Any, (0..events).map(|_| Deposited { amount: 1 })).await
    };
    deposit(500).await?;
    let backup = folder.path().join("backup.db");
    sqlite3(&path, &format!(".backup '{}'", backup.display()))?;
    deposit(5_000).await?;
    sqlite3(&path, "PRAGMA wal_checkpoint(TRUNCATE)")?;
    deposit(500).await?;
    // As after a crash: the file is replaced, and its write-ahead log is left.
    let wrong = folder.path().join("wrong.db");
    std::fs::copy(&backup, &wrong)?;
    std::fs::copy(path.with_extension("db-wal"), wrong.with_extension("db-wal"))?;
    let found = match SqliteStore::open(&wrong).await {
        Err(error) => error,
        Ok(store) => {
            let report = store.doctor().await?;
            assert_eq!(report.severity(), Severity::Danger, "{report}");
            return Ok(());
        }
    };
    assert!(matches!(found, StoreError::Damaged(_)), "{found:?}");
    // Without it, the backup is what it was.
    let right = folder.path().join("right.db");
    std::fs::copy(&backup, &right)?;
    assert_eq!(Store::from(SqliteStore::open(&right).await?).head().await?, Position(500));
    Ok(())
}
