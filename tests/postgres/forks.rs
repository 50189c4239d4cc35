//! Events that are not in the log any more.

use eventstore::sqlx::{self, AssertSqlSafe};

use crate::{cases, server};

#[path = "../cases/forks.rs"]
mod lost;

/// A store, and what takes its events after a position away.
async fn forking() -> (cases::World, impl AsyncFn(eventstore::Position)) {
    let store = server::fresh().await;
    let schema = store.schema().to_owned();
    let world = cases::World::new(std::sync::Arc::new(store), None, ());
    let lose = async move |after: eventstore::Position| {
        let delete = format!(
            "ALTER TABLE {schema}.events DISABLE TRIGGER append_only;
             DELETE FROM {schema}.events WHERE position > {after};
             ALTER TABLE {schema}.events ENABLE ALWAYS TRIGGER append_only"
        );
        sqlx::raw_sql(AssertSqlSafe(delete)).execute(&mut server::connection().await).await.unwrap();
    };
    (world, lose)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_a_log_that_lost_its_end_stops_what_follows_it() -> Result<(), Box<dyn std::error::Error>> {
    let (world, lose) = forking().await;
    lost::a_log_that_lost_its_end_stops_what_follows_it(world, lose).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r8_a_relay_whose_log_lost_its_end_stops() -> Result<(), Box<dyn std::error::Error>> {
    let (world, lose) = forking().await;
    lost::a_relay_whose_log_lost_its_end_stops(world, lose).await
}
