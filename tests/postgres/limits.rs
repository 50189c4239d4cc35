//! What a server allows, and what it must not cost.

use std::time::Duration;

use eventstore::{
    Changes, Checkpoint, EventStore, Expected, Id, PgStore, Position, Processors, Runner, Shard, Step, Store,
    StoreError, Tables,
    prelude::*,
    sqlx::{self, AssertSqlSafe, PgConnection},
};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    account::{Account, AccountEvent::*},
    cases::{balances::Balance, parked::reached},
    server,
};

type Any = Box<dyn std::error::Error>;

async fn run(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

/// A log of so many accounts, the first with its row, and what connects to it with a `statement_timeout` of a fifth of a
/// second. Each row takes two milliseconds.
async fn hurried(events: u64) -> Result<(Store, Store), Any> {
    let (schema, mut admin) = (server::schema(), server::connection().await);
    let options = PgStore::options().schema(schema.clone()).max_connections(5);
    let store = Store::from(options.clone().connect(server::url()).await?);
    let running = Runner::new(&store).read_model::<Balance>().start();
    running.until(store.append(Id::<Account>::from("a"), Expected::Any, [Deposited { amount: 1 }]).await?.last).await?;
    running.stop().await;
    let slow = format!(
        "CREATE FUNCTION {schema}.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.002); RETURN new; END $$;
         CREATE TRIGGER slow BEFORE INSERT ON {schema}.\"balance@1\" FOR EACH ROW EXECUTE FUNCTION {schema}.slow()"
    );
    run(&mut admin, slow).await?;
    for n in 0..events / 100 {
        let id = |m: u64| Id::<Account>::from(format!("A{}", n * 100 + m));
        let first = store.append(id(0), Expected::Any, [Deposited { amount: 1 }]);
        let all = (1..100).fold(first, |append, m| append.and(id(m), Expected::Any, [Deposited { amount: 1 }]));
        all.await?;
    }
    let hurried = options.connect(&server::url_with("options=-c%20statement_timeout%3D200ms")).await?;
    Ok((store, Store::from(hurried)))
}

async fn whole(store: &Store, rows: u64) -> Result<(), Any> {
    let balances = store.read_model::<Balance>().list().await?;
    assert_eq!(balances.len() as u64, rows);
    assert!(balances.iter().all(|(_, row)| row.balance == 1));
    Ok(())
}

/// A batch that takes longer than a statement may is made smaller until it fits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_batch_that_takes_longer_than_a_statement_may_is_made_smaller() -> Result<(), Any> {
    let (store, hurried) = hurried(2_000).await?;
    let running = Runner::new(&hurried).read_model::<Balance>().start();
    let head = store.head().await?;
    let caught_up = async { while running.until(head).await.is_err() {} };
    timeout(Duration::from_secs(100), caught_up).await?;
    running.stop().await;
    whole(&store, 2_001).await
}

/// The same where the rows are kept with each append: the append that finds them behind, and the program that starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_inline_rows_that_lag_by_more_than_a_statement_may_take_catch_up() -> Result<(), Any> {
    // More than an append takes along, and less.
    for events in [2_000, 600] {
        let (store, hurried) = hurried(events).await?;
        let inline = hurried.with_inline::<Balance>();
        inline.append(Id::<Account>::from("last"), Expected::Any, [Deposited { amount: 1 }]).await?;
        whole(&store, events + 2).await?;
    }
    Ok(())
}

/// Pages that a statement has read, in memory or not.
async fn pages(connection: &mut PgConnection, sql: &str) -> Result<i64, Any> {
    let explain = AssertSqlSafe(format!("EXPLAIN (ANALYZE, BUFFERS) {sql}"));
    let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(connection).await?;
    // The first line is about all of the statement.
    let buffers = plan.iter().find(|line| line.contains("Buffers: shared")).ok_or("no buffers")?;
    let of = |what: &str| buffers.split(what).nth(1).and_then(|rest| rest.split(' ').next()?.parse::<i64>().ok());
    Ok(of("hit=").unwrap_or(0) + of("read=").unwrap_or(0))
}

/// While a snapshot is held elsewhere, no earlier version of a checkpoint can be removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_checkpoint_is_found_in_a_few_pages_however_often_it_has_moved() -> Result<(), Any> {
    const MOVES: u64 = 8_000;
    let store = server::fresh().await;
    let (schema, mut admin) = (store.schema().to_owned(), server::connection().await);
    let owner = Some(Uuid::now_v7());
    let shards = |name: &str| {
        Shard::parts(name, 2).into_iter().map(|shard| (shard, Checkpoint { epoch: 1, owner, ..Checkpoint::default() }))
    };
    for name in ["before", "moved", "other"] {
        let mut transaction = EventStore::begin(&store).await?;
        transaction.lock_projection(name).await?;
        transaction.put_shards(name, shards(name).collect()).await?;
        transaction.commit().await?;
    }
    // Planned while it is one page.
    run(&mut admin, format!("VACUUM ANALYZE {schema}.checkpoints")).await?;
    let statements = [
        format!("SELECT {schema}.step('moved', 0, 512, -1, NULL, 1, NULL, 9, NULL)"),
        format!("SELECT * FROM {schema}.lock_shard('moved', 0, 512)"),
        format!("SELECT * FROM {schema}.lock_shards('moved')"),
        format!("SELECT {schema}.advance('moved', 0, 512, 100000, NULL)"),
        format!("SELECT * FROM {schema}.shards('moved')"),
        format!("SELECT * FROM {schema}.shards(NULL)"),
    ];
    let mut held = server::connection().await;
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").execute(&mut held).await?;
    let (shard, mut at) = shards("moved").next().ok_or("a shard")?;
    for position in 1..=MOVES {
        let changes = Changes { table: Balance::TABLE, upserts: vec![], deletes: vec![] };
        let (from, to) = (at, (Position(position), None));
        if position % 10 == 0 {
            let mut transaction = EventStore::begin(&store).await?;
            assert_eq!(transaction.lock(&shard).await?, Some(from));
            transaction.advance(&shard, to.0, to.1).await?;
            transaction.commit().await?;
        } else {
            assert!(EventStore::step(&store, Step { shard: shard.clone(), from, to, changes, lazy: true }).await?);
        }
        at.position = to.0;
    }
    let size: i64 =
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT pg_relation_size('{schema}.checkpoints') / 8192")))
            .fetch_one(&mut admin)
            .await?;
    assert!(size > 80, "{size} pages: nothing holds the old versions");
    for statement in statements {
        // The first time in a session, the catalog is read as well; and once a page is full, the index is told of another.
        let mut least = i64::MAX;
        for n in 0..5 {
            let statement = statement.replace("100000", &(100_000 + n).to_string());
            least = least.min(pages(&mut admin, &statement).await?);
        }
        assert!(least <= 40, "{least} pages of {size}: {statement}");
    }
    assert_eq!(store.checkpoint("moved").await?, Position(0), "the second shard has not moved");
    assert_eq!(store.shards(None).await?.len(), 6);
    sqlx::raw_sql("COMMIT").execute(&mut held).await?;
    Ok(())
}

/// A row that the database refuses, for a constraint or an index of its own, keeps its key waiting, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_row_that_the_database_refuses_waits_by_itself() -> Result<(), Any> {
    let (schema, mut admin) = (server::schema(), server::connection().await);
    let store = Store::from(PgStore::options().schema(schema.clone()).connect(server::url()).await?);
    let deposit = async |key: &str, amount| {
        let done = store.append(Id::<Account>::from(key), Expected::Any, [Deposited { amount }]).await?;
        Ok::<_, StoreError>(done.last)
    };
    let running = Runner::new(&store).read_model::<Balance>().start();
    running.until(deposit("first", 1).await?).await?;
    running.stop().await;
    run(&mut admin, format!("ALTER TABLE {schema}.\"balance@1\" ADD CONSTRAINT low CHECK (balance < 100)")).await?;

    for n in 0..20 {
        deposit(&format!("A{n}"), 1).await?;
    }
    deposit("rich", 200).await?;
    deposit("rich", 5).await?;
    let last = deposit("last", 1).await?;
    let running = Runner::new(&store).read_model::<Balance>().start();
    reached(&running, last).await?;
    let balances = store.read_model::<Balance>();
    assert_eq!(balances.get("last").await?.map(|row| row.balance), Some(1));
    assert!(matches!(balances.get("rich").after(last).await, Err(StoreError::Parked { .. })));
    let letters = Processors::new(&store).dead_letters("balance");
    let waiting = letters.list().await?;
    assert_eq!(waiting.iter().map(|letter| &*letter.key).collect::<Vec<_>>(), ["rich", "rich"]);
    assert!(waiting[0].error.contains("low"), "{}", waiting[0].error);

    run(&mut admin, format!("ALTER TABLE {schema}.\"balance@1\" DROP CONSTRAINT low")).await?;
    letters.retry("rich").await?;
    assert_eq!(balances.get("rich").await?.map(|row| row.balance), Some(205));
    running.stop().await;
    Ok(())
}
