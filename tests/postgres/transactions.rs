//! A caller's own SQL in a transaction: savepoints, ends, drops, time-outs; and what is known of the log afterwards.

use std::{error::Error, time::Duration};

use eventstore::{
    BoxError, CommandError, Expected, Id, Invalid, PgStore, Position, Projection, Runner, Store, StoreError, Tables,
    Version,
    prelude::*,
    sqlx::{self, AssertSqlSafe, Connection, PgConnection},
};
use futures::TryStreamExt;
use tokio::time::timeout;

use crate::{
    account::{AccountEvent::*, *},
    cases::balances::*,
    server,
};

type Any = Box<dyn Error>;

/// A log, with a table of the caller's in its schema.
async fn with_receipts() -> Result<(PgStore, Store, String), Any> {
    let pg = server::fresh().await;
    let table = format!("{}.receipts", pg.schema());
    let make = format!("CREATE TABLE {table} (account text PRIMARY KEY)");
    sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut server::connection().await).await?;
    Ok((pg.clone(), pg.into(), table))
}

async fn receipts(table: &str) -> Result<Vec<String>, Any> {
    let all = sqlx::query_scalar(AssertSqlSafe(format!("SELECT account FROM {table} ORDER BY 1")));
    Ok(all.fetch_all(&mut server::connection().await).await?)
}

async fn insert(connection: &mut PgConnection, table: &str, account: &str) -> Result<(), sqlx::Error> {
    let insert = format!("INSERT INTO {table} VALUES ('{account}')");
    sqlx::query(AssertSqlSafe(insert)).execute(connection).await.map(drop)
}

async fn run(connection: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(connection).await.map(drop)
}

/// Finding A1: code that is handed the connection and begins a transaction of its own gets a savepoint.
#[tokio::test]
async fn a2_a_transaction_begun_on_the_connection_is_a_savepoint() -> Result<(), Any> {
    let ann = Id::<Account>::from("ann");
    for (inner, outer) in [(true, true), (true, false), (false, true), (false, false)] {
        for dropped in [false, true] {
            let (_, store, table) = with_receipts().await?;
            let tx = store.begin().await?;
            tx.execute(&ann, Open { owner: "Ann".into() }).await?;
            {
                let mut connection = tx.connection::<PgConnection>().await?;
                let mut nested = connection.begin().await?;
                insert(&mut nested, &table, "nested").await?;
                match inner {
                    true => nested.commit().await?,
                    false if dropped => drop(nested),
                    false => nested.rollback().await?,
                }
                insert(&mut connection, &table, "outer").await?;
            }
            tx.execute(&ann, Deposit { amount: 5 }).await?;
            if outer {
                tx.commit().await?
            } else {
                tx.rollback().await?
            }
            let rows: Vec<_> = [("nested", inner && outer), ("outer", outer)].into_iter().collect();
            let rows: Vec<_> = rows.into_iter().filter(|(_, there)| *there).map(|(row, _)| row).collect();
            let what = format!("inside: {inner}, outside: {outer}, dropped: {dropped}");
            assert_eq!(receipts(&table).await?, rows, "{what}");
            assert_eq!(store.head().await?, Position(if outer { 2 } else { 0 }), "{what}");
        }
    }
    Ok(())
}

/// The same for one that was begun and forgotten: the commit is the commit of all.
#[tokio::test]
async fn a2_a_commit_commits_what_was_begun_on_the_connection_and_forgotten() -> Result<(), Any> {
    let (_, store, table) = with_receipts().await?;
    let tx = store.begin().await?;
    {
        let mut connection = tx.connection::<PgConnection>().await?;
        let mut nested = connection.begin().await?;
        insert(&mut nested, &table, "nested").await?;
        std::mem::forget(nested);
    }
    tx.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    tx.commit().await?;
    assert_eq!(receipts(&table).await?, ["nested"]);
    assert_eq!(store.head().await?, Position(1));
    Ok(())
}

/// Finding A1: nothing is `Ok` that is not recorded, and nothing is recorded after an error said so.
#[tokio::test]
async fn a6_a_transaction_that_was_ended_on_its_connection_says_so() -> Result<(), Any> {
    let ends = ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "ROLLBACK; BEGIN", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN"];
    let ann = Id::<Account>::from("ann");
    for end in ends {
        for next in ["commit", "rollback", "execute", "load", "get", "drop"] {
            let (_, store, _) = with_receipts().await?;
            let tx = store.begin().await?;
            tx.execute(&ann, Open { owner: "Ann".into() }).await?;
            run(&mut *tx.connection::<PgConnection>().await?, end).await?;
            let ended = match next {
                "commit" => tx.commit().await,
                "rollback" => tx.rollback().await,
                "drop" => {
                    drop(tx);
                    Err(StoreError::Ended)
                }
                operation => {
                    let failed = match operation {
                        "execute" => match tx.execute(&ann, Deposit { amount: 5 }).await {
                            Err(CommandError::Store(error)) => Err(error),
                            other => panic!("{other:?}"),
                        },
                        "load" => tx.load(&ann).await.map(drop),
                        _ => tx.read_model::<Balance>().get(&ann).await.map(drop),
                    };
                    assert!(matches!(failed, Err(StoreError::Ended)), "{end}, {operation}: {failed:?}");
                    tx.commit().await
                }
            };
            assert!(matches!(ended, Err(StoreError::Ended)), "{end}, {next}: {ended:?}");
            // What was appended before is there if it was committed; nothing came after it.
            let recorded = end.starts_with("COMMIT");
            assert_eq!(store.head().await?, Position(u64::from(recorded)), "{end}, {next}");
            // And the connection is of no harm to those who come next.
            store.execute(&ann, Deposit { amount: 1 }).await.map_or_else(
                |error| assert!(!recorded && matches!(error, CommandError::Rejected(_)), "{error}"),
                |_| assert!(recorded),
            );
        }
    }
    Ok(())
}

/// Finding A5: version 1 at position 1; an append that is rolled back to a savepoint; another append, at position 2.
#[tokio::test]
async fn t1_a_position_that_was_rolled_back_to_a_savepoint_is_no_place_to_read_from() -> Result<(), Any> {
    let (pg, store, _) = with_receipts().await?;
    let other = Store::from(PgStore::options().schema(pg.schema()).connect(server::url()).await?);
    let ann = Id::<Account>::from("ann");
    store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    let tx = store.begin().await?;
    run(&mut *tx.connection::<PgConnection>().await?, "SAVEPOINT caller").await?;
    assert_eq!(tx.append(&ann, Expected::Any, [Deposited { amount: 2 }]).await?.last, Position(2));
    run(&mut *tx.connection::<PgConnection>().await?, "ROLLBACK TO SAVEPOINT caller").await?;
    // It is not there for the transaction either.
    assert_eq!(tx.load(&ann).await?.balance, 1);
    tx.commit().await?;
    let then = store.load(&ann).await?;
    assert_eq!((then.position, then.balance, store.head().await?), (Position(1), 1, Position(1)));
    other.append(&ann, Expected::Any, [Deposited { amount: 7 }]).await?;
    assert_eq!(store.load(&ann).at_position(then.position).await?.balance, 1);
    // A decision on what was read is one on position 1: what came since is in its way.
    let stale = store.execute(&ann, Deposit { amount: 100 }).expecting_position(then.position).await;
    assert!(matches!(stale, Err(CommandError::Conflict(_))), "{stale:?}");
    assert_eq!(store.load(&ann).await?.balance, 8);
    Ok(())
}

/// Finding A5 beside G1: with a savepoint, the lock of appends that was taken since is gone, and what was loaded may change.
#[tokio::test]
async fn c6_what_was_loaded_is_checked_again_after_a_rollback_to_a_savepoint() -> Result<(), Any> {
    for (loads, appends) in [("before", false), ("before", true), ("between", false), ("between", true)] {
        for inline in [false, true] {
            let what = format!("loaded {loads}, appends: {appends}, inline: {inline}");
            let (_, plain, _) = with_receipts().await?;
            let store = if inline { plain.clone().with_inline::<Balance>() } else { plain.clone() };
            let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
            store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
            let tx = store.begin().await?;
            if loads == "before" {
                assert_eq!(tx.load(&ann).await?.balance, 1);
            }
            run(&mut *tx.connection::<PgConnection>().await?, "SAVEPOINT caller").await?;
            tx.append(&bob, Expected::Any, [Deposited { amount: 2 }]).await?;
            if loads == "between" {
                assert_eq!(tx.load(&ann).await?.balance, 1);
            }
            run(&mut *tx.connection::<PgConnection>().await?, "ROLLBACK TO SAVEPOINT caller").await?;
            plain.append(&ann, Expected::Any, [Deposited { amount: 5 }]).await?;
            let stale = match appends {
                true => tx.append(&bob, Expected::Any, [Deposited { amount: 2 }]).await.map(drop),
                false => tx.commit().await,
            };
            assert!(matches!(stale, Err(StoreError::Conflict(_))), "{what}: {stale:?}");
            assert_eq!(plain.head().await?, Position(2), "{what}");
        }
    }
    // Where nothing was rolled back, what it has loaded and changed itself is no conflict.
    let (_, store, _) = with_receipts().await?;
    let ann = Id::<Account>::from("ann");
    let tx = store.begin().await?;
    run(&mut *tx.connection::<PgConnection>().await?, "SAVEPOINT caller").await?;
    for n in 0..3 {
        assert_eq!(tx.load(&ann).await?.balance, n);
        tx.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
        run(&mut *tx.connection::<PgConnection>().await?, "SAVEPOINT another").await?;
    }
    run(&mut *tx.connection::<PgConnection>().await?, "RELEASE SAVEPOINT caller").await?;
    tx.commit().await?;
    assert_eq!(store.load(&ann).await?.balance, 3);
    Ok(())
}

/// The same, with event types that were registered since the savepoint.
#[tokio::test]
async fn a10_event_types_that_were_rolled_back_to_a_savepoint_are_registered_again() -> Result<(), Any> {
    let (_, store, _) = with_receipts().await?;
    let ann = Id::<Account>::from("ann");
    let tx = store.begin().await?;
    run(&mut *tx.connection::<PgConnection>().await?, "SAVEPOINT caller").await?;
    tx.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    run(&mut *tx.connection::<PgConnection>().await?, "ROLLBACK TO SAVEPOINT caller").await?;
    tx.append(&ann, Expected::Any, [Deposited { amount: 2 }]).await?;
    tx.commit().await?;
    assert_eq!(store.load(&ann).await?.balance, 2);
    assert_eq!(store.head().await?, Position(1));
    Ok(())
}

/// Finding B9: a time-out around a statement leaves it half done, for all that anybody knows.
#[tokio::test]
async fn a2_a_statement_that_was_dropped_on_the_connection_is_noticed() -> Result<(), Any> {
    let (_, store, table) = with_receipts().await?;
    let ann = Id::<Account>::from("ann");
    for answered in [false, true] {
        for next in ["commit", "connection", "execute"] {
            let mut other = server::connection().await;
            let mut lock = other.begin().await?;
            sqlx::raw_sql(AssertSqlSafe(format!("LOCK TABLE {table}"))).execute(&mut *lock).await?;
            let tx = store.begin().await?;
            let slow = async {
                let mut connection = tx.connection::<PgConnection>().await?;
                insert(&mut connection, &table, "ann").await?;
                Ok::<_, Any>(())
            };
            timeout(Duration::from_millis(50), slow).await.expect_err("the table is locked");
            lock.rollback().await?;
            if answered {
                // By now the answer is there, and is of no use to anybody.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let refused = match next {
                "commit" => tx.commit().await,
                "connection" => tx.connection::<PgConnection>().await.map(drop),
                _ => tx.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await.map(drop),
            };
            assert!(matches!(refused, Err(StoreError::Invalid(Invalid::Request(_)))), "{next}: {refused:?}");
            assert_eq!((receipts(&table).await?, store.head().await?), (vec![], Position(0)));
        }
    }
    Ok(())
}

/// An error of the caller's statement that the caller has said nothing of.
#[tokio::test]
async fn a2_a_statement_that_failed_on_the_connection_is_noticed() -> Result<(), Any> {
    let (_, store, _) = with_receipts().await?;
    let ann = Id::<Account>::from("ann");
    for next in ["commit", "rollback", "execute"] {
        let tx = store.begin().await?;
        tx.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
        run(&mut *tx.connection::<PgConnection>().await?, "SELECT 1 / 0").await.expect_err("no such number");
        let refused = match next {
            "rollback" => {
                tx.rollback().await?;
                Err(Invalid::unfinished().into())
            }
            "commit" => tx.commit().await,
            _ => tx.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await.map(drop),
        };
        assert!(matches!(refused, Err(StoreError::Invalid(Invalid::Request(_)))), "{next}: {refused:?}");
        assert_eq!(store.head().await?, Position(0));
    }
    // In a savepoint of the caller's it is the caller's affair.
    let tx = store.begin().await?;
    {
        let mut connection = tx.connection::<PgConnection>().await?;
        let mut nested = connection.begin().await?;
        run(&mut nested, "SELECT 1 / 0").await.expect_err("no such number");
        nested.rollback().await?;
    }
    tx.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    tx.commit().await?;
    assert_eq!(store.head().await?, Position(1));
    Ok(())
}

/// Finding B9: what the store's own statements set for themselves is not set for those of the caller.
#[tokio::test]
async fn a9_an_append_leaves_the_callers_time_outs_as_they_were() -> Result<(), Any> {
    let (_, store, _) = with_receipts().await?;
    let ann = Id::<Account>::from("ann");
    let settings = async |connection: &mut PgConnection| -> Result<(String, String), Any> {
        let show = "SELECT current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')";
        Ok(sqlx::query_as(show).fetch_one(connection).await?)
    };
    for (store, name) in [(store.clone(), "plain"), (store.clone().with_inline::<Balance>(), "inline")] {
        let tx = store.begin().await?;
        let before = settings(&mut *tx.connection::<PgConnection>().await?).await?;
        assert_eq!(before, ("0".into(), "0".into()), "{name}");
        for own in [None, Some(("7s", "45s"))] {
            if let Some((lock, idle)) = own {
                let set = format!(
                    "SET LOCAL lock_timeout = '{lock}'; SET LOCAL idle_in_transaction_session_timeout = '{idle}'"
                );
                let mut connection = tx.connection::<PgConnection>().await?;
                sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut *connection).await?;
            }
            let expected = own.map_or_else(|| before.clone(), |(lock, idle)| (lock.into(), idle.into()));
            for _ in 0..2 {
                tx.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
                assert_eq!(settings(&mut *tx.connection::<PgConnection>().await?).await?, expected, "{name}, {own:?}");
            }
        }
        tx.commit().await?;
        // Nor do they outlive the transaction.
        let tx = store.begin().await?;
        assert_eq!(settings(&mut *tx.connection::<PgConnection>().await?).await?, before, "{name}");
        tx.rollback().await?;
    }
    Ok(())
}

/// Finding F5: the server ends a transaction that is idle for too long.
#[tokio::test]
async fn a6_a_transaction_that_was_ended_for_its_age_is_retryable_and_surely_not_recorded() -> Result<(), Any> {
    let (pg, plain, table) = with_receipts().await?;
    let url = server::url_with("options=-c%20idle_in_transaction_session_timeout=100");
    let store = Store::from(PgStore::options().schema(pg.schema()).connect(&url).await?);
    let ann = Id::<Account>::from("ann");
    let idle = Duration::from_millis(300);
    let nexts =
        [(false, "append"), (true, "append"), (true, "commit"), (true, "load"), (false, "insert"), (true, "insert")];
    for (appends, next) in nexts {
        let tx = store.begin().await.expect(next);
        if appends {
            tx.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await.expect(next);
        }
        tokio::time::sleep(idle).await;
        let failed = match next {
            "append" => tx.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await.map(drop),
            "load" => tx.load(&ann).await.map(drop),
            "insert" => match tx.connection::<PgConnection>().await {
                Ok(mut connection) => {
                    insert(&mut connection, &table, "ann").await.expect_err("the session is gone");
                    drop(connection);
                    tx.load(&ann).await.map(drop)
                }
                Err(error) => Err(error),
            },
            _ => Err(StoreError::Unavailable("not asked".into())),
        };
        assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{next}: {failed:?}");
        let committed = tx.commit().await;
        let Err(error @ StoreError::Unavailable(_)) = &committed else { panic!("{next}: {committed:?}") };
        assert!(error.is_retryable());
        assert_eq!(plain.head().await?, Position(0), "{next}");
        assert!(receipts(&table).await?.is_empty());
    }
    // The store goes on.
    store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await.expect("the store goes on");
    Ok(())
}

/// What a projection in SQL does in a helper that has the connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Helper {
    /// It begins a transaction, looks at something, and rolls back.
    Nested,
    /// It ends the transaction.
    Commits,
    RollsBack,
    /// It hides an error of the database, or a time-out.
    Swallows,
    TimesOut,
}

struct Ledger {
    table: String,
    helper: Helper,
}

impl Projection for Ledger {
    const NAME: &'static str = "ledger";
    type Event = AccountEvent;
    type Db = sqlx::Postgres;

    async fn prepare(&self, db: &mut PgConnection) -> Result<(), BoxError> {
        let make = format!("CREATE TABLE IF NOT EXISTS {} (position bigint, amount bigint)", self.table);
        sqlx::query(AssertSqlSafe(make)).execute(db).await?;
        Ok(())
    }

    async fn project(&self, event: &Recorded<AccountEvent>, db: &mut PgConnection) -> Result<(), BoxError> {
        let Deposited { amount } = event.data else { return Ok(()) };
        let insert = format!("INSERT INTO {} VALUES ({}, {amount})", self.table, event.position);
        sqlx::query(AssertSqlSafe(insert)).execute(&mut *db).await?;
        match self.helper {
            _ if amount != 13 && self.helper != Helper::Nested => {}
            Helper::Nested => {
                let mut nested = db.begin().await?;
                sqlx::query(AssertSqlSafe(format!("DELETE FROM {}", self.table))).execute(&mut *nested).await?;
                nested.rollback().await?;
            }
            Helper::Commits => run(db, "COMMIT").await?,
            Helper::RollsBack => run(db, "ROLLBACK").await?,
            Helper::Swallows => drop(run(db, "SELECT 1 / 0").await),
            Helper::TimesOut => {
                let slow = timeout(Duration::from_millis(20), run(db, "SELECT pg_sleep(0.2)")).await;
                assert!(slow.is_err(), "it takes longer");
            }
        }
        Ok(())
    }
}

/// Finding A1: a log 1, 2, 13, 4 became the rows [4], the checkpoint at the end, `Active`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_what_a_helper_of_a_projection_does_on_the_connection_loses_no_row() -> Result<(), Any> {
    for helper in [Helper::Nested, Helper::Commits, Helper::RollsBack, Helper::Swallows, Helper::TimesOut] {
        let pg = server::fresh().await;
        let (table, store) = (format!("{}.ledger", pg.schema()), Store::from(pg.clone()));
        for (account, amount) in [("ann", 1), ("bob", 2), ("ann", 13), ("bob", 4)] {
            store.append(Id::<Account>::from(account), Expected::Any, [Deposited { amount }]).await?;
        }
        let runner = Runner::new(&store).projection(Ledger { table: table.clone(), helper });
        // The next statement on the connection waits for the answer of one that was dropped.
        let runner = if helper == Helper::TimesOut { runner.batch(1) } else { runner };
        let runner = runner.start();
        let until = runner.until(Position(4)).await;
        let rows = sqlx::query_as(AssertSqlSafe(format!("SELECT position, amount FROM {table} ORDER BY position")));
        let rows: Vec<(i64, i64)> = rows.fetch_all(&mut server::connection().await).await?;
        let checkpoint = pg.checkpoint("ledger").await?;
        match helper {
            Helper::Nested => {
                until?;
                assert_eq!(rows, [(1, 1), (2, 2), (3, 13), (4, 4)], "{helper:?}");
            }
            // Its code is wrong: it stops, and says why. Nothing is lost, and the checkpoint is not ahead of the rows.
            Helper::Commits | Helper::RollsBack => {
                let Err(error @ StoreError::Stopped { .. }) = until else { panic!("{helper:?}: {until:?}") };
                assert!(
                    matches!(error.reason().and_then(|reason| reason.downcast_ref()), Some(StoreError::Ended)),
                    "{error}"
                );
                let kept = rows.iter().filter(|(position, _)| *position <= checkpoint.0 as i64).count();
                assert_eq!(kept as u64, checkpoint.0, "{helper:?}: {rows:?} up to {checkpoint}");
            }
            // The event is to blame, and waits with those behind it; others go on.
            Helper::Swallows | Helper::TimesOut => {
                assert!(matches!(until, Err(StoreError::Parked { .. })), "{helper:?}: {until:?}");
                assert_eq!(rows, [(1, 1), (2, 2), (4, 4)], "{helper:?}");
                let letters = runner.dead_letters("ledger").list().await?;
                assert_eq!(letters.iter().map(|letter| letter.version).collect::<Vec<_>>(), [Version(2)], "{helper:?}");
            }
        }
        runner.stop().await;
    }
    Ok(())
}

/// The log as a reader sees it after all of that: positions 1..n, each once.
#[tokio::test]
async fn a3_transactions_that_were_ended_leave_no_hole() -> Result<(), Any> {
    let (_, store, _) = with_receipts().await?;
    let ann = Id::<Account>::from("ann");
    for (end, amount) in [("ROLLBACK", 1), ("COMMIT", 2), ("ROLLBACK; BEGIN", 4), ("COMMIT; BEGIN", 8)] {
        let tx = store.begin().await?;
        tx.append(&ann, Expected::Any, [Deposited { amount }]).await?;
        run(&mut *tx.connection::<PgConnection>().await?, end).await?;
        tx.commit().await.expect_err("it was ended before");
        store.append(&ann, Expected::Any, [Deposited { amount: 100 }]).await?;
    }
    let log: Vec<_> = store.read().raw().try_collect().await?;
    let places: Vec<_> = log.iter().map(|event| (event.position.0, event.version.0)).collect();
    assert_eq!(places, (1..=6).map(|n| (n, n)).collect::<Vec<_>>());
    assert_eq!(store.load(&ann).await?.balance, 410);
    Ok(())
}
