//! A projection in SQL of one's own, on PostgreSQL.

use eventstore::{
    BoxError, CommandError, Id, Runner, StoreError,
    prelude::*,
    sqlx::{self, AssertSqlSafe, PgConnection, Postgres, Sqlite, SqliteConnection},
};

use crate::{
    account::{
        Account,
        AccountEvent::{self, *},
        Deposit, Open, Withdraw,
    },
    cases::world,
    server,
};

/// The same in SQL, in a table of its own for each test.
pub struct Ledger {
    table: String,
}

impl Ledger {
    pub fn new(table: &str) -> Self {
        Self { table: table.into() }
    }
}

impl Projection for Ledger {
    const NAME: &'static str = "ledger";
    type Event = AccountEvent;
    type Db = Postgres;

    async fn prepare(&self, db: &mut PgConnection) -> Result<(), BoxError> {
        let table = format!("CREATE TABLE IF NOT EXISTS {} (account text PRIMARY KEY, cents bigint)", self.table);
        sqlx::query(AssertSqlSafe(table)).execute(db).await?;
        Ok(())
    }

    async fn project(&self, event: &Recorded<AccountEvent>, db: &mut PgConnection) -> Result<(), BoxError> {
        let cents = match &event.data {
            Opened { .. } => 0,
            Deposited { amount } => *amount,
            Withdrawn { amount } => -amount,
            Closed => return Ok(()),
        };
        let add = format!(
            "INSERT INTO {0} VALUES ($1, $2) ON CONFLICT (account) DO UPDATE SET cents = {0}.cents + excluded.cents",
            self.table
        );
        sqlx::query(AssertSqlSafe(add)).bind(event.stream.key()).bind(cents).execute(db).await?;
        Ok(())
    }
}

#[tokio::test]
async fn p1_an_inline_projection_in_sql_commits_with_the_append() -> Result<(), Box<dyn std::error::Error>> {
    let world = world().await;
    let ann = Id::<Account>::from("ann");
    world.store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let table = format!("ledger_{}", server::schema());
    let store = world.store.clone().with_inline_projection(Ledger::new(&table));
    let pool: &sqlx::PgPool = world.inner.database().downcast_ref().expect("PostgreSQL");
    let cents = format!("SELECT cents FROM {table} WHERE account = 'ann'");
    for n in 1..=3_i64 {
        store.execute(&ann, Deposit { amount: 10 }).await?;
        let cents: i64 = sqlx::query_scalar(AssertSqlSafe(cents.clone())).fetch_one(pool).await?;
        assert_eq!(10 * n, cents);
    }
    // The table is gone under it: nothing is recorded.
    sqlx::query(AssertSqlSafe(format!("DROP TABLE {table}"))).execute(pool).await?;
    let head = store.head().await?;
    let refused = store.execute(&ann, Deposit { amount: 1 }).await;
    assert!(matches!(refused, Err(CommandError::Store(StoreError::NotProjected { .. }))), "{refused:?}");
    assert_eq!(store.head().await?, head);
    Ok(())
}

#[tokio::test]
async fn p1_a_projection_in_sql_counts_each_event_once() -> Result<(), Box<dyn std::error::Error>> {
    let world = world().await;
    let store = &world.store;
    let ann = Id::<Account>::from("ann");
    let table = format!("ledger_{}", server::schema());
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    for n in 1..=5 {
        // Two at once: one of them takes each event.
        let one = Runner::new(store).projection(Ledger { table: table.clone() }).start();
        let other = Runner::new(store).projection(Ledger { table: table.clone() }).start();
        store.execute(&ann, Deposit { amount: 10 * n }).await?;
        let last = store.execute(&ann, Withdraw { amount: n }).await?;
        one.until(last.position).await?;
        one.stop().await;
        other.stop().await;
    }
    let mut connection = server::connection().await;
    let cents = format!("SELECT cents FROM {table} WHERE account = 'ann'");
    let cents: i64 = sqlx::query_scalar(AssertSqlSafe(cents)).fetch_one(&mut connection).await?;
    assert_eq!(cents, 150 - 15);
    sqlx::query(AssertSqlSafe(format!("DROP TABLE {table}"))).execute(&mut connection).await?;
    Ok(())
}

/// Breaks in the middle of a batch, once.
struct Breaking {
    table: String,
    broken: std::sync::atomic::AtomicBool,
}

impl Projection for Breaking {
    const NAME: &'static str = "breaking";
    type Event = AccountEvent;
    type Db = Postgres;

    async fn prepare(&self, db: &mut PgConnection) -> Result<(), BoxError> {
        let table = format!("CREATE TABLE IF NOT EXISTS {} (position bigint)", self.table);
        sqlx::query(AssertSqlSafe(table)).execute(db).await?;
        Ok(())
    }

    async fn project(&self, event: &Recorded<AccountEvent>, db: &mut PgConnection) -> Result<(), BoxError> {
        let insert = format!("INSERT INTO {} VALUES ($1)", self.table);
        sqlx::query(AssertSqlSafe(insert)).bind(event.position.0.cast_signed()).execute(&mut *db).await?;
        if event.position.0 == 7 && !self.broken.swap(true, std::sync::atomic::Ordering::SeqCst) {
            sqlx::query("SELECT 1 / 0").execute(db).await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn p1_a_batch_that_breaks_in_the_middle_leaves_nothing_behind() -> Result<(), Box<dyn std::error::Error>> {
    let world = world().await;
    let store = &world.store;
    let table = format!("breaking_{}", server::schema());
    let ann = Id::<Account>::from("ann");
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let mut last = None;
    for _ in 0..9 {
        last = Some(store.execute(&ann, Deposit { amount: 1 }).await?.position);
    }
    let breaking = Breaking { table: table.clone(), broken: false.into() };
    let runner = Runner::new(store).projection(breaking).start();
    runner.until(last.expect("nine deposits")).await?;
    runner.stop().await;
    let mut connection = server::connection().await;
    let positions = format!("SELECT position FROM {table} ORDER BY position");
    let positions: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(positions)).fetch_all(&mut connection).await?;
    assert_eq!(positions, (1..=10).collect::<Vec<_>>());
    sqlx::query(AssertSqlSafe(format!("DROP TABLE {table}"))).execute(&mut connection).await?;
    Ok(())
}

/// Written for another database.
struct Elsewhere;

impl Projection for Elsewhere {
    const NAME: &'static str = "elsewhere";
    type Event = AccountEvent;
    type Db = Sqlite;

    async fn project(&self, _: &Recorded<AccountEvent>, _: &mut SqliteConnection) -> Result<(), BoxError> {
        unreachable!("it is never asked")
    }
}

#[tokio::test]
async fn a_projection_for_another_database_is_stopped_at_the_start() -> Result<(), Box<dyn std::error::Error>> {
    let world = world().await;
    let opened = world.store.execute(Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    let runner = Runner::new(&world.store).projection(Elsewhere).start();
    let stopped = runner.until(opened.position).await;
    assert!(
        matches!(&stopped, Err(StoreError::Stopped { projection, .. }) if projection == "elsewhere"),
        "{stopped:?}"
    );
    runner.stop().await;
    Ok(())
}
