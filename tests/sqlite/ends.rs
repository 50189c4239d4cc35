//! Transactions that a caller's statement or SQLite itself has ended, and savepoints in them.

use std::time::Duration;

use eventstore::{
    Append, BoxError, Changes, CommandError, EventStore, Expected, Id, Metadata, NewEvent, Position, Raw, Read,
    ReadModel, Runner, SqliteStore, Store, StoreError, Tables, Write,
    prelude::*,
    sqlx::{self, AssertSqlSafe, Connection, Sqlite, SqliteConnection},
};
use serde_json::value::to_raw_value;
use tempfile::TempDir;

use crate::{
    account::{Account, AccountEvent, AccountEvent::*, *},
    cases::balances::Balance,
};

type Any = Box<dyn std::error::Error>;

/// A store with an account, and a table of the user's with a row.
async fn bank() -> Result<(SqliteStore, Store, Id<Account>, TempDir), Any> {
    let folder = tempfile::tempdir()?;
    let file = SqliteStore::open(folder.path().join("log.db")).await?;
    let store = Store::from(file.clone());
    let ann = Id::<Account>::from("ann");
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let tx = store.begin().await?;
    run(&mut *tx.connection().await?, "CREATE TABLE theirs (id INTEGER PRIMARY KEY)").await?;
    run(&mut *tx.connection().await?, "INSERT INTO theirs VALUES (1)").await?;
    tx.commit().await?;
    Ok((file, store, ann, folder))
}

async fn run(connection: &mut SqliteConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

async fn theirs(store: &SqliteStore) -> Result<Vec<i64>, Any> {
    let pool: &sqlx::SqlitePool = store.database().downcast_ref().expect("SQLite");
    Ok(sqlx::query_scalar("SELECT id FROM theirs ORDER BY id").fetch_all(pool).await?)
}

fn ended<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Ended)), "{result:?}");
}

#[tokio::test]
async fn a2_a_transaction_that_a_statement_has_ended_records_nothing() -> Result<(), Any> {
    let (file, store, ann, _folder) = bank().await?;
    for end in [
        "INSERT OR ROLLBACK INTO theirs VALUES (1)",
        "ROLLBACK",
        "COMMIT",
        "END",
        "ROLLBACK; BEGIN",
        "ROLLBACK; BEGIN IMMEDIATE; INSERT INTO theirs VALUES (9)",
        "ROLLBACK; SAVEPOINT other; INSERT INTO theirs VALUES (9); RELEASE other",
    ] {
        for commits in [true, false] {
            let tx = store.begin().await?;
            run(&mut *tx.connection().await?, "INSERT INTO theirs VALUES (2)").await?;
            tx.execute(&ann, Deposit { amount: 100 }).await?;
            // The caller handles the error, and goes on.
            let _ = run(&mut *tx.connection().await?, end).await;
            let next = tx.execute(&ann, Deposit { amount: 100 }).await;
            assert!(matches!(next, Err(CommandError::Store(StoreError::Ended))), "{end}: {next:?}");
            ended(tx.append(&ann, Expected::Any, [Closed]).await);
            ended(tx.load(&ann).await);
            ended(tx.head().await);
            // Outside of a transaction, a statement is a transaction of its own: that would be recorded whatever comes.
            let alone = run(&mut *tx.connection().await?, "INSERT INTO theirs VALUES (3)").await;
            assert!(alone.is_err() || end.contains("BEGIN") || end.contains("SAVEPOINT"), "{end}");
            match commits {
                true => ended(tx.commit().await),
                false => tx.rollback().await?,
            }
            assert_eq!((store.head().await?, theirs(&file).await?), (Position(1), vec![1]), "{end}");
        }
    }
    // The connection is as good as new.
    store.execute(&ann, Deposit { amount: 100 }).await?;
    assert_eq!(store.load(&ann).await?.balance, 100);
    Ok(())
}

#[tokio::test]
async fn a2_transactions_of_sqlx_within_one_are_savepoints() -> Result<(), Any> {
    let (file, store, ann, _folder) = bank().await?;
    let insert = async |connection: &mut SqliteConnection, id: i64| -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO theirs VALUES (?1)").bind(id).execute(connection).await.map(drop)
    };
    let mut expected = vec![1];
    let mut balance = 0;
    for (round, inner) in ["commit", "rollback", "drop", "forget"].into_iter().enumerate() {
        for commits in [true, false] {
            let tx = store.begin().await?;
            tx.execute(&ann, Deposit { amount: 1 }).await?;
            let id = 10 * round as i64 + 10 + i64::from(commits);
            {
                let mut connection = tx.connection::<SqliteConnection>().await?;
                let mut nested = connection.begin().await?;
                insert(&mut nested, id).await?;
                match inner {
                    "commit" => nested.commit().await?,
                    "rollback" => nested.rollback().await?,
                    "drop" => drop(nested),
                    _ => std::mem::forget(nested),
                }
            }
            tx.execute(&ann, Deposit { amount: 1 }).await?;
            match commits {
                true => tx.commit().await?,
                false => tx.rollback().await?,
            }
            if commits {
                balance += 2;
                expected.extend(["commit", "forget"].contains(&inner).then_some(id));
            }
            let seen = (store.load(&ann).await?.balance, theirs(&file).await?);
            assert_eq!(seen, (balance, expected.clone()), "{inner}, {commits}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a2_what_was_rolled_back_to_a_savepoint_was_never_there() -> Result<(), Any> {
    let (file, store, ann, _folder) = bank().await?;
    let tx = store.begin().await?;
    tx.execute(&ann, Deposit { amount: 1 }).await?;
    run(&mut *tx.connection().await?, "SAVEPOINT theirs").await?;
    tx.execute(&ann, Deposit { amount: 10 }).await?;
    assert_eq!(tx.load(&ann).await?.balance, 11);
    run(&mut *tx.connection().await?, "ROLLBACK TO theirs").await?;
    assert_eq!(tx.load(&ann).await?.balance, 1);
    tx.commit().await?;
    assert_eq!((store.load(&ann).await?.balance, store.head().await?), (1, Position(2)));
    // A reader is not woken again and again for a position that is not there.
    let news = tokio::time::timeout(Duration::from_millis(300), file.appended(Position(2))).await;
    assert!(news.is_err(), "nothing was appended");
    store.execute(&ann, Deposit { amount: 7 }).await?;
    assert_eq!((store.load(&ann).await?.balance, store.head().await?), (8, Position(3)));
    Ok(())
}

#[tokio::test]
async fn a2_hooks_that_a_caller_has_taken_are_the_stores_again() -> Result<(), Any> {
    let (file, store, ann, _folder) = bank().await?;
    let tx = store.begin().await?;
    {
        let mut connection = tx.connection::<SqliteConnection>().await?;
        let mut handle = connection.lock_handle().await?;
        handle.remove_commit_hook();
        handle.remove_rollback_hook();
    }
    tx.execute(&ann, Deposit { amount: 1 }).await?;
    tx.commit().await?;
    let tx = store.begin().await?;
    tx.execute(&ann, Deposit { amount: 1 }).await?;
    let committed = run(&mut *tx.connection().await?, "COMMIT").await;
    assert!(committed.is_err(), "only the store commits");
    ended(tx.commit().await);
    assert_eq!((store.load(&ann).await?.balance, theirs(&file).await?), (1, vec![1]));
    Ok(())
}

#[tokio::test]
async fn a1_a_connection_that_was_given_up_is_opened_again() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log.db");
    let file = SqliteStore::open(&path).await?;
    for n in 1..=3 {
        file.append(deposit()).await?;
        let mut transaction = file.begin().await?;
        transaction.append(deposit()).await?;
        let connection = transaction.connection().and_then(|connection| connection.downcast_mut::<SqliteConnection>());
        let connection = connection.expect("SQLite");
        // The driver counts a savepoint that is gone, for ever.
        let nested = connection.begin().await?;
        std::mem::forget(nested);
        run(connection, "ROLLBACK").await?;
        ended(transaction.commit().await);
        // No connection has the file open: another program that closes it removes the write-ahead log.
        let other = Store::from(SqliteStore::open(&path).await?);
        assert_eq!(other.head().await?, Position(n));
        other.close().await?;
    }
    file.append(deposit()).await?;
    assert_eq!(Store::from(file).head().await?, Position(4));
    Ok(())
}

/// An event as the contract of stores has it.
fn deposit() -> Append {
    let data = Raw { name: "account.deposited".into(), tags: vec![], body: br#"{"amount":1}"#.to_vec() };
    let (metadata, id) = (Metadata::default(), eventstore::Uuid::now_v7());
    let event = NewEvent { id, schema: 1, occurred_at: None, metadata, data };
    let write =
        Write { stream: "account-ann".parse().expect("a stream"), expected: Expected::Any, events: vec![event] };
    Append { writes: vec![write], ..Append::default() }
}

/// How many pages the file may have; the largest number there is, unless it is said.
async fn limit(store: &Store, pages: Option<u32>) -> Result<(), Any> {
    let tx = store.begin().await?;
    let limit = match pages {
        Some(more) => {
            let mut connection = tx.connection::<SqliteConnection>().await?;
            let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&mut *connection).await?;
            pages + i64::from(more)
        }
        None => 1_073_741_823,
    };
    run(&mut *tx.connection().await?, &format!("PRAGMA max_page_count = {limit}")).await?;
    tx.rollback().await?;
    Ok(())
}

#[tokio::test]
async fn a2_a6_a_full_disk_refuses_what_may_be_tried_again_and_nothing_is_half_written() -> Result<(), Any> {
    let (file, store, ann, _folder) = bank().await?;
    file.create(&Balance::TABLE).await?;
    let large = || [Opened { owner: "x".repeat(1 << 20) }];
    limit(&store, Some(8)).await?;
    for _ in 0..3 {
        let full = store.append(&ann, Expected::Any, large()).await;
        let Err(error @ StoreError::Unavailable(_)) = full else { panic!("{full:?}") };
        assert!(error.is_retryable(), "{error}");
    }
    // In a transaction, what came before is gone with it.
    let tx = store.begin().await?;
    tx.execute(&ann, Deposit { amount: 1 }).await?;
    let full = tx.append(&ann, Expected::Any, large()).await;
    assert!(matches!(full, Err(StoreError::Unavailable(_))), "{full:?}");
    assert!(tx.commit().await.is_err());
    assert_eq!((store.head().await?, store.load(&ann).await?.balance), (Position(1), 0));
    // Of some statements SQLite rolls back the whole transaction: then nothing can be done in it any more.
    let row = to_raw_value(&Balance { owner: "x".repeat(1 << 20), balance: 0 })?;
    let rows = || Changes { table: Balance::TABLE, upserts: vec![("ann".into(), row.clone())], deletes: vec![] };
    let mut transaction = file.begin().await?;
    transaction.append(deposit()).await?;
    for refused in [
        transaction.write(rows()).await.err(),
        transaction.append(deposit()).await.err(),
        transaction.read(Read::at(Position(1))).await.err(),
        transaction.commit().await.err(),
    ] {
        assert!(matches!(&refused, Some(error @ StoreError::Unavailable(_)) if error.is_retryable()), "{refused:?}");
    }
    assert_eq!(store.head().await?, Position(1));

    limit(&store, None).await?;
    store.append(&ann, Expected::Any, large()).await?;
    store.execute(&ann, Deposit { amount: 1 }).await?;
    assert_eq!((store.head().await?, store.load(&ann).await?.balance), (Position(3), 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_p3_a_full_disk_holds_a_read_model_up_and_no_key_is_parked() -> Result<(), Any> {
    let (_file, store, ann, _folder) = bank().await?;
    let runner = Runner::new(&store).read_model::<Balance>().lease(Duration::from_millis(300)).start();
    runner.until(store.head().await?).await?;
    runner.pause("balance").await?;
    // Its rows need room; what says that the node lives needs none.
    let owners = (0..200).map(|n| Opened { owner: format!("{n}{}", "x".repeat(2_000)) });
    let accounts = owners.zip(0..).map(|(opened, n)| (Id::<Account>::from(format!("A{n}")), opened));
    let tx = store.begin().await?;
    for (account, opened) in accounts {
        tx.append(&account, Expected::Any, [opened]).await?;
    }
    tx.commit().await?;
    limit(&store, Some(2)).await?;
    runner.resume("balance").await?;
    let last = store.head().await?;
    let held = async {
        while runner.status()[0].error.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), held).await?;
    assert!(runner.status()[0].position < last);
    limit(&store, None).await?;
    runner.until(last).await?;
    assert!(runner.dead_letters("balance").list().await?.is_empty());
    assert_eq!(store.read_model::<Balance>().list().after(last).await?.len(), 201);
    assert_eq!(store.read_model::<Balance>().get(&ann).await?.map(|row| row.owner), Some("Ann".into()));
    runner.stop().await;
    Ok(())
}

/// Notes each amount, by a helper that has transactions of its own.
struct Amounts {
    /// What the helper does with an amount of 13.
    at_thirteen: &'static str,
}

impl Projection for Amounts {
    const NAME: &'static str = "amounts";
    type Event = AccountEvent;
    type Db = Sqlite;

    async fn prepare(&self, db: &mut SqliteConnection) -> Result<(), BoxError> {
        Ok(run(db, "CREATE TABLE IF NOT EXISTS amounts (amount INTEGER NOT NULL)").await?)
    }

    async fn project(&self, event: &Recorded<AccountEvent>, db: &mut SqliteConnection) -> Result<(), BoxError> {
        let Deposited { amount } = event.data else { return Ok(()) };
        if amount == 13 && self.at_thirteen != "nested" {
            // The helper handles the error, and goes on.
            let _ = run(db, self.at_thirteen).await;
        }
        let mut helper = db.begin().await?;
        let note = sqlx::query("INSERT INTO amounts VALUES (?1)").bind(amount).execute(&mut *helper).await?;
        assert_eq!(note.rows_affected(), 1);
        match amount {
            13 => helper.rollback().await?,
            _ => helper.commit().await?,
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_projection_whose_helper_ends_transactions_counts_each_event_once() -> Result<(), Any> {
    for at_thirteen in ["nested", "COMMIT", "ROLLBACK", "INSERT OR ROLLBACK INTO theirs VALUES (1)"] {
        let (file, store, ann, _folder) = bank().await?;
        let amounts = async || -> Result<Vec<i64>, Any> {
            let pool: &sqlx::SqlitePool = file.database().downcast_ref().expect("SQLite");
            Ok(sqlx::query_scalar("SELECT amount FROM amounts ORDER BY rowid").fetch_all(pool).await?)
        };
        let last = store.append(&ann, Expected::Any, [1, 2, 13, 4].map(|amount| Deposited { amount })).await?.last;
        let runner = Runner::new(&store).projection(Amounts { at_thirteen }).start();
        if at_thirteen != "nested" {
            let held = async {
                while runner.status()[0].error.is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), held).await?;
            assert!(amounts().await?.len() <= 3, "no event twice, and none after the one that fails");
            let at = file.checkpoint("amounts").await?;
            assert_eq!(amounts().await?.len() as u64, at.0.saturating_sub(1).min(2), "rows are of the checkpoint");
            runner.stop().await;
            let runner = Runner::new(&store).projection(Amounts { at_thirteen: "nested" }).start();
            crate::cases::parked::reached(&runner, last).await?;
            runner.dead_letters("amounts").retry_all().await?;
            runner.stop().await;
        } else {
            runner.until(last).await?;
            runner.stop().await;
        }
        assert_eq!(amounts().await?, [1, 2, 4], "{at_thirteen}");
    }
    Ok(())
}
