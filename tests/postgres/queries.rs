//! Queries on the tables of read models: what they cost, and plain SQL beside them.

use std::time::Duration;

use eventstore::{
    Changes, Column, EventStore, Expected, Id, Kind, List, PgStore, Rows, Runner, Store, Table, Tables,
    prelude::*,
    sqlx::{self, AssertSqlSafe, PgConnection},
};
use serde_json::value::to_raw_value;
use tokio::time::{Instant, sleep};

use crate::{
    account::{Account, AccountEvent::*},
    cases::{balances::Balance, reading::Sorted},
    server,
};

type Any = Box<dyn std::error::Error>;

/// Rows of the table that sessions have read, once they have ended.
async fn rows_read(connection: &mut PgConnection, schema: &str) -> Result<i64, sqlx::Error> {
    let read = "SELECT (seq_tup_read + idx_tup_fetch)::bigint FROM pg_stat_user_tables
                 WHERE schemaname = $1 AND relname = 'sorted@1'";
    sqlx::query_scalar(read).bind(schema).fetch_one(connection).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_reads_about_as_many_rows_as_it_has_at_any_depth() -> Result<(), Any> {
    const ROWS: i64 = 20_000;
    let base = server::fresh().await;
    let (schema, mut admin) = (base.schema().to_owned(), server::connection().await);
    let store = Store::from(base.clone());
    let running = Runner::new(&store).read_model::<Sorted>().start();
    running.until(store.append(Id::<Account>::from("a"), Expected::Any, [Deposited { amount: 1 }]).await?.last).await?;
    running.stop().await;
    let row = |n: i64| {
        // One in ten has null.
        let row = Sorted { number: (n % 10 > 0).then_some(n / 3), ..Sorted::default() };
        Ok::<_, serde_json::Error>((format!("k{n:05}"), to_raw_value(&row)?))
    };
    let upserts = (0..ROWS).map(row).collect::<Result<Vec<_>, _>>()?;
    let mut transaction = base.begin().await?;
    transaction.write(Changes { table: Sorted::TABLE, upserts, deletes: vec![] }).await?;
    transaction.commit().await?;
    base.index(&Sorted::TABLE).await?;
    sqlx::query(AssertSqlSafe(format!("ANALYZE {schema}.\"sorted@1\""))).execute(&mut admin).await?;

    type Narrow = fn(List<Sorted>) -> List<Sorted>;
    let lists: [(&str, Narrow); 5] = [
        ("ascending", |list| list.order_by("number")),
        ("descending", |list| list.order_by("number").descending()),
        ("filtered", |list| list.order_by("number").ge("number", 100).le("number", 6_500)),
        ("by key", |list| list),
        ("by key, descending", |list| list.descending()),
    ];
    for (name, list) in lists {
        let deep = list(store.read_model::<Sorted>().list()).skip(15_000).limit(1).page().await?;
        let cursor = deep.next.ok_or("no page is that deep")?;
        // The counters of a session are complete once it has ended.
        sleep(Duration::from_millis(100)).await;
        let one = PgStore::options().schema(schema.clone()).max_connections(2).connect(server::url()).await?;
        let before = settled(&mut admin, &schema, 0).await?;
        let reader = Store::from(one);
        let page = list(reader.read_model::<Sorted>().list()).from_cursor(cursor).page().await?;
        assert_eq!(page.rows.len(), 100, "{name}");
        reader.close().await?;
        let read = settled(&mut admin, &schema, before + 1).await? - before;
        assert!((100..1_000).contains(&read), "{name}: a page of 100 rows has read {read}");
    }
    Ok(())
}

/// The rows that were read, once they are at least so many and there are no more for a while.
async fn settled(admin: &mut PgConnection, schema: &str, least: i64) -> Result<i64, Any> {
    let until = Instant::now() + Duration::from_secs(60);
    let mut same = (0, -1);
    while same.0 < 15 {
        assert!(Instant::now() < until, "no session reports what it has read");
        sleep(Duration::from_millis(100)).await;
        let read = rows_read(admin, schema).await?;
        same = if read == same.1 && read >= least { (same.0 + 1, read) } else { (0, read) };
    }
    Ok(same.1)
}

/// The example of docs/read-models.md.
#[tokio::test]
async fn the_current_version_is_joined_in_plain_sql() -> Result<(), Any> {
    let base = server::fresh().await;
    let (schema, mut db) = (base.schema().to_owned(), server::connection().await);
    let store = Store::from(base);
    for (name, amount) in [("ann", 100), ("bob", 20), ("cem", 3)] {
        store.append(Id::<Account>::from(name), Expected::Any, [Deposited { amount }]).await?;
    }
    let running = Runner::new(&store).read_model::<Balance>().start();
    running.settle().await?;
    let customers = format!(
        "CREATE TABLE {schema}.customers (account text PRIMARY KEY, city text NOT NULL);
         INSERT INTO {schema}.customers VALUES ('ann', 'Oslo'), ('bob', 'Oslo'), ('cem', 'Izmir')"
    );
    sqlx::raw_sql(AssertSqlSafe(customers)).execute(&mut db).await?;
    let by_city = format!(
        "SELECT c.city, sum(b.balance)::bigint
           FROM {schema}.customers AS c JOIN {schema}.\"balance@current\" AS b ON b.key = c.account
          GROUP BY c.city ORDER BY c.city"
    );
    let until = Instant::now() + Duration::from_secs(20);
    let cities: Vec<(String, i64)> = loop {
        match sqlx::query_as(AssertSqlSafe(by_city.clone())).fetch_all(&mut db).await {
            Ok(cities) => break cities,
            // The view is made soon after the table has come to the end of the log.
            Err(_) if Instant::now() < until => sleep(Duration::from_millis(20)).await,
            Err(error) => return Err(error.into()),
        }
    };
    assert_eq!(cities, [("Izmir".into(), 3), ("Oslo".into(), 120)]);
    running.stop().await;
    Ok(())
}

/// P4: a program reads rows of a table while another one adds an optional column to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_column_that_is_added_between_two_looks_is_no_error() -> Result<(), Any> {
    const BEFORE: &[Column] = &[Column::new("x", Kind::Integer)];
    const AFTER: &[Column] = &[Column::new("x", Kind::Integer), Column::optional("note", Kind::Text)];
    let store = server::fresh().await;
    for version in 1..=100 {
        let table = Table { name: "raced", version, columns: BEFORE, shadow: false };
        store.create(&table).await?;
        let mut transaction = store.begin().await?;
        let upserts = vec![("k".into(), to_raw_value(&serde_json::json!({ "x": 1 }))?)];
        transaction.write(Changes { table, upserts, deletes: vec![] }).await?;
        transaction.commit().await?;
        let (other, mut reads_after) = (store.clone(), 0);
        let table = Table { columns: AFTER, ..table };
        let add = tokio::spawn(async move {
            sleep(Duration::from_micros(u64::from(version) * 50)).await;
            other.create(&table).await
        });
        while reads_after < 2 {
            reads_after += i32::from(add.is_finished());
            let rows = || Rows::Keys { table, keys: vec!["k".into()] };
            assert_eq!(store.rows(rows()).await?.len(), 1);
            let mut transaction = store.begin().await?;
            match transaction.rows(rows()).await {
                Ok(rows) => assert_eq!(rows.len(), 1),
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
            transaction.rollback().await?;
        }
        add.await??;
    }
    Ok(())
}
