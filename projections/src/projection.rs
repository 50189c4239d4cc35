//! Projections: processors in the user's own SQL.

use std::{ops::Range, panic::AssertUnwindSafe};

use async_trait::async_trait;
use eventstore_core::{BoxError, Event, EventStore, Query, Recorded, StoreError, Transaction};
use eventstore_engine::{
    failure::Failure,
    record::{queue::Queue, reads::Reads},
    run::{
        keyed_events::KeyedEvents,
        page::DecodedPage,
        processor::{Begins, Part, Processor, Remembered},
    },
};
use futures::FutureExt;
use sqlx::{Database, Pool};

/// A processor in your own SQL.
///
/// What `project` writes commits together with the checkpoint, so each event counts exactly once, whatever crashes.
/// `project` may do anything on the connection except commit or roll back the transaction; sqlx's `begin` makes a
/// savepoint on it. The database decides who is to blame for an error. If the server is (it is down, full or busy), the
/// engine tries again until it succeeds. If the program is (wrong SQL), the projection stops. Any other error is the
/// event's, and parks its key. `docs/errors.md` has the codes.
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
    /// The name of the checkpoint: 1 to 256 bytes, without control characters, `@`, and `~shadow` at the end. A new name starts from the first event, unless the runner says otherwise:
    /// [`Runner::from_now`](eventstore_engine::Runner::from_now).
    const NAME: &'static str;
    /// The events that it processes.
    type Event: Event;
    /// `sqlx::Postgres` or `sqlx::Sqlite`: the database of the store it runs on.
    type Db: Database;

    /// Runs before the first event, each time the projection is started: the place for `CREATE TABLE IF NOT EXISTS`. If
    /// it fails, it is tried again at the next beat, unless the program is to blame.
    fn prepare(
        &self,
        db: &mut <Self::Db as Database>::Connection,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = db;
        async { Ok(()) }
    }

    /// Processes one event, in the transaction that moves the checkpoint. An error rolls the batch back.
    fn project(
        &self,
        event: &Recorded<Self::Event>,
        db: &mut <Self::Db as Database>::Connection,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Processes events of one batch, in the order of the log; by default one by one. If it fails, fewer are tried,
    /// down to the event to blame.
    fn project_batch(
        &self,
        events: &[&Recorded<Self::Event>],
        db: &mut <Self::Db as Database>::Connection,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        async move {
            for event in events {
                self.project(event, db).await?;
            }
            Ok(())
        }
    }

    /// Empties the projection's tables, so that [`Processors::rebuild`](eventstore_engine::Processors::rebuild) can
    /// begin it again: the place for `TRUNCATE`. Runs in the transaction that resets the checkpoint. The default
    /// returns an error, and a rebuild then stops the projection.
    fn clear(&self, db: &mut <Self::Db as Database>::Connection) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = db;
        async { Err("it does not say how its tables are emptied: write `Projection::clear`".into()) }
    }

    /// Returns the key of an event: events of one key are processed in order, and wait if one of them cannot be. By
    /// default the stream. Must be pure, because the key decides the shard.
    fn key(event: &Recorded<Self::Event>) -> String {
        event.stream.to_string()
    }
}

/// Runs a projection.
pub struct Sql<P>(pub P);

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
impl<P: Projection> Processor for Sql<P> {
    fn name(&self) -> String {
        P::NAME.into()
    }

    fn query(&self) -> Query {
        Query::names(P::Event::NAMES)
    }

    fn reads(&self) -> Reads {
        Reads::of::<P::Event>()
    }

    fn begins(&self) -> Begins {
        Begins::FirstEventUnlessSaid(None)
    }

    async fn clear(&self, transaction: &mut dyn Transaction) -> Result<(), Failure> {
        let cleared = self.0.clear(Self::connection(transaction)?).await;
        cleared.map_err(|error| Failure::of_sql(error, transaction).for_certain())
    }

    async fn prepare(&self, store: &dyn EventStore) -> Result<(), Failure> {
        if !store.database().is::<Pool<P::Db>>() {
            let place = if store.database().is::<()>() { "in memory" } else { "in another database" };
            return Err(Self::wrong_database(place).into());
        }
        let mut transaction = store.begin().await?;
        // Nodes that start at the same time prepare one after the other.
        transaction.lock_projection(P::NAME).await?;
        let prepared = self.0.prepare(Self::connection(&mut *transaction)?).await;
        prepared.map_err(|error| Failure::of_sql(error, &*transaction))?;
        Failure::unless_whole(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    fn decode(&self, page: &DecodedPage, places: Range<usize>) {
        page.decoded::<P::Event>().decode(page, places);
    }

    async fn process(
        &self,
        transaction: &mut dyn Transaction,
        part: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        let decoded = part.page.decoded::<P::Event>();
        let keyed = KeyedEvents::of(part, &decoded, P::key)?;
        if keyed.events.is_empty() {
            return Ok(keyed.waiting);
        }
        let connection = Self::connection(transaction)?;
        let projected = AssertUnwindSafe(self.0.project_batch(&keyed.events, connection)).catch_unwind().await;
        let projected = match projected {
            Ok(Ok(())) => Failure::unless_whole(transaction).await,
            Ok(Err(error)) => Err(Failure::of_sql(error, transaction)),
            Err(panic) => Err(Failure::panicked(&*panic)),
        };
        projected.map_err(|failed| keyed.blame(part, failed))?;
        Ok(keyed.waiting)
    }
}
