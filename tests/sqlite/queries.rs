//! Plain SQL beside the queries on read models.

use std::time::Duration;

use eventstore::{
    Expected, Id, RunReadModels, Runner, SqliteStore, Store,
    sqlx::{self, Connection, SqliteConnection},
};
use tokio::time::{Instant, sleep};

use crate::{
    account::{Account, AccountEvent::*},
    cases::balances::Balance,
};

type Any = Box<dyn std::error::Error>;

/// The example of docs/read-models.md, in a file.
#[tokio::test]
async fn the_current_version_is_joined_in_plain_sql() -> Result<(), Any> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("log.db");
    let store = Store::from(SqliteStore::open(&file).await?);
    for (name, amount) in [("ann", 100), ("bob", 20), ("cem", 3)] {
        store.append(Id::<Account>::from(name), Expected::Any, [Deposited { amount }]).await?;
    }
    let running = Runner::new(&store).read_model::<Balance>().start();
    running.settle().await?;
    let mut db = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await?;
    let customers = "CREATE TABLE customers (account TEXT PRIMARY KEY, city TEXT NOT NULL);
         INSERT INTO customers VALUES ('ann', 'Oslo'), ('bob', 'Oslo'), ('cem', 'Izmir')";
    sqlx::raw_sql(customers).execute(&mut db).await?;
    let by_city = "SELECT c.city, sum(b.balance)
           FROM customers AS c JOIN \"balance@current\" AS b ON b.key = c.account
          GROUP BY c.city ORDER BY c.city";
    let until = Instant::now() + Duration::from_secs(20);
    let cities: Vec<(String, i64)> = loop {
        match sqlx::query_as(by_city).fetch_all(&mut db).await {
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
