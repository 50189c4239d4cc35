//! A read model in the user's own SQL.

use std::any::type_name;

use async_trait::async_trait;
use eventstore_core::{BoxError, Event, EventStore, Query, Raw, Recorded, StoreError, Transaction};
use sqlx::{Database, Pool};

use crate::follower::Follower;

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
        connection.ok_or_else(Self::wrong_database)
    }

    fn wrong_database() -> StoreError {
        let source = format!("it is written for {}, and the store keeps its log elsewhere", type_name::<P::Db>());
        StoreError::Stopped { projection: P::NAME.into(), source: source.into() }
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

    async fn prepare(&self, store: &dyn EventStore) -> Result<(), BoxError> {
        if !store.database().is::<Pool<P::Db>>() {
            return Err(Self::wrong_database().into());
        }
        let mut transaction = store.begin().await?;
        // Of many nodes that start at once, one after the other prepares.
        transaction.lock(P::NAME).await?;
        self.0.prepare(Self::connection(&mut *transaction)?).await?;
        Ok(transaction.commit().await?)
    }

    async fn take(&self, transaction: &mut dyn Transaction, batch: &[Recorded<Raw>]) -> Result<(), BoxError> {
        let connection = Self::connection(transaction)?;
        for raw in batch {
            for event in raw.decode().map_err(|source| StoreError::unreadable(raw, source))? {
                self.0.project(&event, connection).await?;
            }
        }
        Ok(())
    }
}
