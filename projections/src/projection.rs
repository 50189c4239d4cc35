//! A read model in the user's own SQL.

use std::panic::AssertUnwindSafe;

use async_trait::async_trait;
use eventstore_core::{BoxError, Event, EventStore, Query, Raw, Recorded, StoreError, Transaction};
use futures::FutureExt;
use sqlx::{Database, Pool};

use crate::{
    failed::{Failed, at},
    follower::Follower,
};

/// A read model in your own SQL.
///
/// What `project` writes commits together with the checkpoint, so each event counts exactly once, whatever crashes.
/// It may do what it likes on the connection but begin, commit or roll back.
///
/// ```
/// use eventstore::{BoxError, prelude::*, sqlx::{self, PgConnection}};
/// # #[derive(Event, Clone)]
/// # enum AccountEvent { Deposited { amount: i64 }, Closed }
///
/// struct Ledger;
///
/// impl Projection for Ledger {
///     const NAME: &'static str = "ledger";
///     type Event = AccountEvent;
///     type Db = sqlx::Postgres;
///
///     async fn prepare(&self, db: &mut PgConnection) -> Result<(), BoxError> {
///         sqlx::query("CREATE TABLE IF NOT EXISTS ledger (account text, amount bigint)").execute(db).await?;
///         Ok(())
///     }
///
///     async fn project(&self, event: &Recorded<AccountEvent>, db: &mut PgConnection) -> Result<(), BoxError> {
///         if let AccountEvent::Deposited { amount } = event.data {
///             let insert = sqlx::query("INSERT INTO ledger VALUES ($1, $2)").bind(event.stream.key()).bind(amount);
///             insert.execute(db).await?;
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait Projection: Send + Sync + 'static {
    /// The name of the checkpoint. A new name starts from the first event.
    const NAME: &'static str;
    /// What it hears of.
    type Event: Event;
    /// `sqlx::Postgres` or `sqlx::Sqlite`: the database of the store it runs on.
    type Db: Database;

    /// Runs before the first event each time the projection is started: the place for `CREATE TABLE IF NOT EXISTS`.
    fn prepare(
        &self,
        db: &mut <Self::Db as Database>::Connection,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = db;
        async { Ok(()) }
    }

    /// Takes in one event, in the transaction that moves the checkpoint.
    fn project(
        &self,
        event: &Recorded<Self::Event>,
        db: &mut <Self::Db as Database>::Connection,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// Runs a projection.
pub(crate) struct Sql<P>(pub(crate) P);

impl<P: Projection> Sql<P> {
    fn connection(transaction: &mut dyn Transaction) -> Result<&mut <P::Db as Database>::Connection, StoreError> {
        let connection = transaction.connection().and_then(|connection| connection.downcast_mut());
        connection.ok_or_else(|| Self::wrong_database("in another database"))
    }

    fn wrong_database(place: &str) -> StoreError {
        let database = P::Db::NAME;
        let reason = format!("it is written for {database}, and this store is {place}: run it on one in {database}");
        StoreError::Stopped { projection: P::NAME.into(), reason: reason.into() }
    }
}

#[async_trait]
impl<P: Projection> Follower for Sql<P> {
    fn name(&self) -> String {
        P::NAME.into()
    }

    fn query(&self) -> Query {
        Query::names(P::Event::NAMES)
    }

    async fn prepare(&self, store: &dyn EventStore) -> Result<(), Failed> {
        if !store.database().is::<Pool<P::Db>>() {
            let place = if store.database().is::<()>() { "in memory" } else { "in another database" };
            return Err(Self::wrong_database(place).into());
        }
        let mut transaction = store.begin().await?;
        // Of many nodes that start at once, one after the other prepares.
        transaction.lock_projection(P::NAME).await?;
        self.0.prepare(Self::connection(&mut *transaction)?).await.map_err(Failed::theirs)?;
        Ok(transaction.commit().await?)
    }

    async fn take(&self, transaction: &mut dyn Transaction, batch: &[Recorded<Raw>]) -> Result<(), Failed> {
        let connection = Self::connection(transaction)?;
        for raw in batch {
            for event in at(raw, || raw.decode().map_err(|source| StoreError::unreadable(raw, source)))? {
                let projected = AssertUnwindSafe(self.0.project(&event, connection)).catch_unwind().await;
                let projected = projected.map_err(|panic| Failed::panicked(&*panic));
                let projected = projected.and_then(|projected| projected.map_err(Failed::theirs));
                projected.map_err(|failed| failed.at(raw))?;
            }
        }
        Ok(())
    }
}
