//! A projection in SQL of two releases: what the newer one reads, and the older one has passed, waits for a decision.
//!
//! Each binary that has a database says which: `Db` and `Connection`.

use eventstore::{
    BoxError, Event, Expected, Inline, Processors, Runner, Store, StoreError, StreamId,
    prelude::*,
    sqlx::{self, AssertSqlSafe, Pool},
};
use uuid::Uuid;

use crate::{
    Connection, Db,
    cases::{
        World,
        releases::{first, second},
        world,
    },
};

type Any = Box<dyn std::error::Error>;

/// Writes down what it hears of, in order.
#[derive(Clone)]
struct Sums<E> {
    table: String,
    adds: fn(&E) -> i64,
}

impl<E> Sums<E> {
    fn sql(&self, sql: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(sql.replace("{table}", &self.table))
    }
}

impl<E: Event> Projection for Sums<E> {
    const NAME: &'static str = "sums";
    type Event = E;
    type Db = Db;

    async fn prepare(&self, db: &mut Connection) -> Result<(), BoxError> {
        let table = self.sql("CREATE TABLE IF NOT EXISTS {table} (n bigint PRIMARY KEY, amount bigint NOT NULL)");
        sqlx::query(table).execute(db).await?;
        Ok(())
    }

    async fn project(&self, event: &Recorded<E>, db: &mut Connection) -> Result<(), BoxError> {
        let insert = self.sql("INSERT INTO {table} SELECT coalesce(max(n), 0) + 1, $1 FROM {table}");
        sqlx::query(insert).bind((self.adds)(&event.data)).execute(db).await?;
        Ok(())
    }

    async fn clear(&self, db: &mut Connection) -> Result<(), BoxError> {
        sqlx::query(self.sql("DELETE FROM {table}")).execute(db).await?;
        Ok(())
    }
}

struct Scene {
    world: World,
    table: String,
}

impl Scene {
    async fn new() -> Self {
        Self { world: world().await, table: format!("sums_{}", Uuid::now_v7().simple()) }
    }

    fn store(&self) -> Store {
        Store::from(self.world.inner.clone())
    }

    fn first(&self) -> Sums<first::PurseEvent> {
        Sums { table: self.table.clone(), adds: first::adds }
    }

    fn second(&self) -> Sums<second::PurseEvent> {
        Sums { table: self.table.clone(), adds: second::adds }
    }

    async fn amounts(&self) -> Vec<i64> {
        let pool: &Pool<Db> = self.world.inner.database().downcast_ref().unwrap();
        let amounts = AssertSqlSafe(format!("SELECT amount FROM {} ORDER BY n", self.table));
        sqlx::query_scalar(amounts).fetch_all(pool).await.unwrap()
    }

    async fn append<E: Event>(store: &Store, event: E) -> Result<eventstore::Position, StoreError> {
        Ok(store.append(StreamId::new("purse", "ann"), Expected::Any, [event]).await?.last)
    }
}

async fn decide(operator: &Processors, decision: &str) -> Result<(), StoreError> {
    match decision {
        "accept" => operator.accept("sums").await,
        "deliver" => operator.deliver_missed("sums").await,
        _ => operator.rebuild("sums").await.map(drop),
    }
}

const DECISIONS: [(&str, &[i64]); 3] =
    [("accept", &[1, -3, 4, -5]), ("deliver", &[1, -3, -2, 4, -5]), ("rebuild", &[1, -2, -3, 4, -5])];

#[tokio::test]
async fn e5_a_projection_in_sql_that_has_passed_events_waits_for_a_decision() -> Result<(), Any> {
    for (decision, expected) in DECISIONS {
        let scene = Scene::new().await;
        let store = scene.store();
        let old = Runner::new(&store).projection(scene.first()).start();
        Scene::append(&store, first::Filled { amount: 1 }).await?;
        Scene::append(&store, second::Fee { amount: 2 }).await?;
        old.until(Scene::append(&store, first::Spent { amount: 3 }).await?).await?;
        old.stop().await;
        let new = Runner::new(&store).projection(scene.second()).start();
        let last = Scene::append(&store, second::Filled { amount: 4 }).await?;
        let Err(stopped @ StoreError::Stopped { .. }) = new.until(last).await else { panic!("nobody has decided") };
        let typed = stopped.reason().and_then(|reason| reason.downcast_ref());
        assert!(matches!(typed, Some(StoreError::Missed { .. })), "{stopped}");
        assert_eq!(scene.amounts().await, [1, -3]);
        decide(&new, decision).await?;
        while new.until(last).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        new.until(Scene::append(&store, second::Fee { amount: 5 }).await?).await?;
        assert_eq!(scene.amounts().await, expected, "{decision}");
        new.stop().await;
    }
    Ok(())
}

#[tokio::test]
async fn e5_an_inline_projection_in_sql_that_has_passed_events_waits_for_a_decision() -> Result<(), Any> {
    for (decision, expected) in DECISIONS {
        let scene = Scene::new().await;
        let plain = scene.store();
        let old = scene.store().with_inline_projection(scene.first());
        Scene::append(&old, first::Filled { amount: 1 }).await?;
        Scene::append(&plain, second::Fee { amount: 2 }).await?;
        Scene::append(&old, first::Spent { amount: 3 }).await?;
        let new = scene.store().with_inline_projection(scene.second());
        for _ in 0..2 {
            let refused = Scene::append(&new, second::Filled { amount: 4 }).await;
            let Err(stopped @ StoreError::Stopped { .. }) = refused else { panic!("{refused:?}") };
            let typed = stopped.reason().and_then(|reason| reason.downcast_ref());
            assert!(matches!(typed, Some(StoreError::Missed { .. })), "{stopped}");
        }
        assert_eq!(plain.head().await?.0, 3, "nothing is recorded");
        decide(&Processors::new(&plain), decision).await?;
        Scene::append(&new, second::Filled { amount: 4 }).await?;
        Scene::append(&new, second::Fee { amount: 5 }).await?;
        assert_eq!(scene.amounts().await, expected, "{decision}");
    }
    Ok(())
}

#[tokio::test]
async fn g8_a_projection_in_sql_begins_where_it_is_told_to() -> Result<(), Any> {
    let scene = Scene::new().await;
    let store = scene.store();
    for amount in 1..=3 {
        Scene::append(&store, first::Filled { amount }).await?;
    }
    let running = Runner::new(&store).projection(scene.first()).from(eventstore::Position(2)).start();
    running.until(Scene::append(&store, first::Filled { amount: 4 }).await?).await?;
    assert_eq!(scene.amounts().await, [3, 4]);
    // Again, from where it began.
    running.rebuild("sums").await?.wait().await?;
    running.until(Scene::append(&store, first::Filled { amount: 5 }).await?).await?;
    assert_eq!(scene.amounts().await, [3, 4, 5]);
    running.stop().await;
    Ok(())
}

#[tokio::test]
async fn p10_a_projection_in_sql_that_was_given_up_is_removed_and_may_start_again() -> Result<(), Any> {
    let scene = Scene::new().await;
    let store = scene.store();
    for amount in 1..=2 {
        Scene::append(&store, first::Filled { amount }).await?;
    }
    let running = Runner::new(&store).projection(scene.first()).shards(2).start();
    running.until(store.head().await?).await?;
    let operator = Processors::new(&store);
    let refused = operator.discard("sums").await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    running.stop().await;
    operator.discard("sums").await?;
    assert!(operator.status().await?.is_empty());
    assert_eq!(scene.amounts().await, [1, 2], "its own tables stay");
    let running = Runner::new(&store).projection(scene.first()).from_now().start();
    // It has begun once it has a checkpoint.
    while scene.world.inner.shards(Some("sums")).await?.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    running.until(Scene::append(&store, first::Filled { amount: 3 }).await?).await?;
    assert_eq!(scene.amounts().await, [1, 2, 3]);
    running.stop().await;
    Ok(())
}
