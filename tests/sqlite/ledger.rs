//! A projection in SQL of one's own, on SQLite.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use eventstore::{
    BoxError, CommandError, Expected, Id, Position, Runner, StoreError, Unavailable,
    prelude::*,
    sqlx::{self, PgConnection, Postgres, Sqlite, SqliteConnection},
};

use crate::{
    account::{
        Account,
        AccountEvent::{self, *},
        Deposit, Open, Withdraw,
    },
    cases::world,
};

/// The same in SQL.
pub struct Ledger;

impl Projection for Ledger {
    const NAME: &'static str = "ledger";
    type Event = AccountEvent;
    type Db = Sqlite;

    async fn prepare(&self, db: &mut SqliteConnection) -> Result<(), BoxError> {
        let table = "CREATE TABLE IF NOT EXISTS ledger (account TEXT PRIMARY KEY, cents INTEGER NOT NULL) STRICT";
        sqlx::query(table).execute(db).await?;
        Ok(())
    }

    async fn project(&self, event: &Recorded<AccountEvent>, db: &mut SqliteConnection) -> Result<(), BoxError> {
        let cents = match &event.data {
            Opened { .. } => 0,
            Deposited { amount } => *amount,
            Withdrawn { amount } => -amount,
            Closed => return Ok(()),
        };
        let add =
            "INSERT INTO ledger VALUES (?1, ?2) ON CONFLICT (account) DO UPDATE SET cents = cents + excluded.cents";
        sqlx::query(add).bind(event.stream.key().to_owned()).bind(cents).execute(db).await?;
        Ok(())
    }
}

#[tokio::test]
async fn p1_a_projection_in_sql_counts_each_event_once() -> Result<(), Box<dyn std::error::Error>> {
    let world = world().await;
    let store = &world.store;
    let ann = Id::<Account>::from("ann");
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    for n in 1..=5 {
        let runner = Runner::new(store).projection(Ledger).start();
        store.execute(&ann, Deposit { amount: 10 * n }).await?;
        let last = store.execute(&ann, Withdraw { amount: n }).await?;
        runner.until(last.position).await?;
        runner.stop().await;
    }
    let pool: &sqlx::SqlitePool = world.inner.database().downcast_ref().expect("SQLite");
    let cents: i64 = sqlx::query_scalar("SELECT cents FROM ledger WHERE account = 'ann'").fetch_one(pool).await?;
    assert_eq!(cents, 150 - 15);
    Ok(())
}

#[tokio::test]
async fn p1_an_inline_projection_in_sql_commits_with_the_append() -> Result<(), Box<dyn std::error::Error>> {
    let world = world().await;
    let ann = Id::<Account>::from("ann");
    world.store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let store = world.store.clone().with_inline_projection(Ledger);
    let pool: &sqlx::SqlitePool = world.inner.database().downcast_ref().expect("SQLite");
    for n in 1..=3_i64 {
        store.execute(&ann, Deposit { amount: 10 }).await?;
        let cents: i64 = sqlx::query_scalar("SELECT cents FROM ledger WHERE account = 'ann'").fetch_one(pool).await?;
        assert_eq!(10 * n, cents);
    }
    let elsewhere = world.store.clone().with_inline_projection(Elsewhere).execute(&ann, Deposit { amount: 1 }).await;
    assert!(matches!(elsewhere, Err(CommandError::Store(StoreError::Stopped { .. }))), "{elsewhere:?}");
    Ok(())
}

/// Written for another database.
struct Elsewhere;

impl Projection for Elsewhere {
    const NAME: &'static str = "elsewhere";
    type Event = AccountEvent;
    type Db = Postgres;

    async fn project(&self, _: &Recorded<AccountEvent>, _: &mut PgConnection) -> Result<(), BoxError> {
        unreachable!("it is never asked")
    }
}

#[tokio::test]
async fn a_projection_for_another_database_is_stopped_at_the_start() -> Result<(), Box<dyn std::error::Error>> {
    let world = world().await;
    let opened = world.store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    let runner = Runner::new(&world.store).projection(Elsewhere).projection(Ledger).start();
    let stopped = runner.until(opened.position).await;
    let Err(StoreError::Stopped { projection, reason }) = stopped else { panic!("{stopped:?}") };
    assert_eq!(projection, "elsewhere");
    let why = "it is written for PostgreSQL, and this store is in another database: run it on one in PostgreSQL";
    assert_eq!(reason.to_string(), why);
    let memory = eventstore::connect("memory:").await?;
    let stopped = Runner::new(&memory).projection(Ledger).start().until(opened.position).await;
    let why = "`ledger` cannot run: it is written for SQLite, and this store is in memory: run it on one in SQLite";
    assert_eq!(stopped.err().map(|error| error.to_string()).as_deref(), Some(why));
    runner.stop().await;
    Ok(())
}

/// Finding F14 in SQL: what the code calls is away.
struct Calls(Arc<AtomicBool>);

impl Projection for Calls {
    const NAME: &'static str = "calls";
    type Event = AccountEvent;
    type Db = Sqlite;

    async fn project(&self, _: &Recorded<AccountEvent>, _: &mut SqliteConnection) -> Result<(), BoxError> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(Unavailable::new("the other side is away").into()),
            false => Ok(()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_projection_in_sql_that_says_unavailable_blames_no_event() -> Result<(), Box<dyn std::error::Error>> {
    let world = world().await;
    let away = Arc::new(AtomicBool::new(true));
    let written = world.store.append(Id::<Account>::from("ann"), Expected::Any, [Deposited { amount: 1 }]).await?;
    let runner = Runner::new(&world.store).projection(Calls(away.clone())).start();
    // An event that is to blame is parked after 210 ms.
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(runner.dead_letters("calls").list().await?, []);
    away.store(false, Ordering::SeqCst);
    runner.until(written.last).await?;
    assert_eq!(runner.dead_letters("calls").list().await?, []);
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn a6_an_inline_projection_in_sql_that_says_unavailable_is_retryable() -> Result<(), Box<dyn std::error::Error>> {
    let world = world().await;
    let away = Arc::new(AtomicBool::new(true));
    let store = world.store.clone().with_inline_projection(Calls(away.clone()));
    let ann = Id::<Account>::from("ann");
    let refused = store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await;
    assert!(matches!(&refused, Err(error @ StoreError::Unavailable(_)) if error.is_retryable()), "{refused:?}");
    let told = refused.unwrap_err().to_string();
    assert_eq!(told, "the store is unavailable: unavailable: the other side is away");
    assert_eq!(store.head().await?, Position(0));
    away.store(false, Ordering::SeqCst);
    store.append(&ann, Expected::Any, [Deposited { amount: 1 }]).await?;
    assert_eq!(world.inner.checkpoint("calls").await?, Position(1));
    Ok(())
}
