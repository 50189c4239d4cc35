//! A log in PostgreSQL.

use std::{
    any::Any,
    pin::pin,
    str::FromStr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use eventstore_core::{
    Append, EventStore, Events, Invalid, Position, Raw, Read, Recorded, Rows, StoreError, Table, Tables, Timestamp,
    Transaction, Written,
};
use futures::future::select;
use serde_json::value::RawValue;
use sqlx::{
    ConnectOptions, Connection, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    append::{Checked, Failed},
    error, migrate, read,
    shared::Shared,
    sql::Sql,
    tables,
    transaction::PgTransaction,
    types::Instant,
    writer::{Reply, Writer},
};

const PAGE: usize = 1_000;
/// How many appends may wait for others before the next is refused.
const QUEUE: usize = 10_000;
/// How long a connection of the pool may be idle before it is asked whether it still lives.
const ASSUMED_ALIVE: Duration = Duration::from_secs(5);
/// How often an append is sent again after its connection broke, with the same ids, before the outcome is unknown.
const RESENT: u32 = 3;

/// A log in PostgreSQL, shared by its clones.
#[derive(Clone)]
pub struct PgStore {
    shared: Arc<Shared>,
}

/// How to open a log: which schema, how many connections.
#[derive(Clone, Debug)]
#[must_use = "nothing is opened until `connect`"]
pub struct PgOptions {
    schema: String,
    max_connections: u32,
}

impl PgOptions {
    /// The schema of the log and of everything that belongs to it; `eventstore` unless told otherwise. One schema is
    /// one log, with positions and a lock of its own. 1 to 63 of `a-z`, `0-9` and `_`.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// How many connections the store may have open; 10 unless told otherwise, and 1 is enough.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections;
        self
    }

    /// Opens the log in the database a URL names: `postgres://user:password@host:5432/database`, or with
    /// `?host=/run/postgresql` for a socket. Makes the schema if it is not there; many nodes may start at once.
    pub async fn connect(self, url: &str) -> Result<PgStore, StoreError> {
        let sql = Sql::new(&self.schema)?;
        let options = PgConnectOptions::from_str(url).map_err(|error| Invalid::Url(error.to_string()))?;
        // Without the pool at first: it would ask a server that is down again and again until its patience ends.
        let connection = options.connect().await.map_err(|error| error::unreachable(&options, error))?;
        drop(connection);
        // Appends have connections of their own, if there are enough.
        let lanes = match self.max_connections {
            0..=2 => 0,
            3 => 1,
            _ => 2,
        };
        let pool = PgPoolOptions::new()
            .max_connections((self.max_connections - lanes).max(1))
            .acquire_timeout(Duration::from_secs(10))
            // A round trip for each acquire would halve the speed, so only one that has been idle is asked whether it
            // still lives; one that breaks in use is noticed then.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move { Ok(meta.idle_for < ASSUMED_ALIVE || connection.ping().await.is_ok()) })
            })
            .connect_lazy_with(options);
        let store = PgStore { shared: Arc::new(Shared::new(pool, sql, Writer::new(QUEUE, lanes))) };
        if !migrate::up_to_date(&mut *store.connection().await?, &store.shared.sql).await? {
            let mut transaction = PgTransaction::begin(&store.shared).await?;
            migrate::migrate(transaction.connection(), &store.shared.sql).await?;
            transaction.commit().await?;
        }
        Ok(store)
    }
}

impl PgStore {
    /// Opens the log in the schema `eventstore` of the database a URL names, and makes it if it is not there. For
    /// another schema, see [`options`](Self::options).
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::options().connect(url).await
    }

    /// How to open a log other than by default.
    pub fn options() -> PgOptions {
        PgOptions { schema: "eventstore".into(), max_connections: 10 }
    }

    /// The schema of the log.
    pub fn schema(&self) -> &str {
        self.shared.sql.schema()
    }

    async fn connection(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        self.shared.pool.acquire().await.map_err(error::store)
    }

    async fn page(&self, read: &Read) -> Result<read::Page, StoreError> {
        let first = read::page(&mut *self.connection().await?, &self.shared, read).await;
        match first {
            // A connection of the pool had broken unnoticed, in a restart of the server perhaps.
            Err(StoreError::Unavailable(_)) => read::page(&mut *self.connection().await?, &self.shared, read).await,
            page => page,
        }
    }

    /// One statement that is a transaction of its own, unless the session's defaults forbid it.
    async fn append_once(&self, append: &Checked) -> Result<Written, Failed> {
        if !self.shared.odd_sessions.load(Ordering::Relaxed) {
            let mut types = vec![];
            let mut connection = self.connection().await?;
            let written = append.record(&mut connection, &self.shared, &mut types).await;
            self.shared.types.learn(types);
            match written {
                // Another isolation level than READ COMMITTED (our own code), or read-only.
                Err(Failed::Broken(error)) if error::is(&error, &["ES001", "25006"]) => {
                    self.shared.odd_sessions.store(true, Ordering::Relaxed);
                }
                written => return written,
            }
        }
        let mut transaction = PgTransaction::begin(&self.shared).await?;
        let written = transaction.record(append).await?;
        transaction.commit().await?;
        Ok(written)
    }

    /// Waits until another process has recorded something.
    async fn recorded_elsewhere(&self, after: Position) {
        let mut pause = Duration::from_millis(5);
        loop {
            sleep(pause).await;
            let Ok(mut connection) = self.connection().await else { continue };
            let head = sqlx::query_scalar(self.shared.sql.head()).fetch_one(&mut *connection).await;
            if head.is_ok_and(|head: i64| head > read::signed(after.0)) {
                return;
            }
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }
}

#[async_trait]
impl EventStore for PgStore {
    async fn read(&self, read: Read) -> Result<Events, StoreError> {
        read.check()?;
        let limit = read.limit;
        let page = Read { limit: Some(limit.map_or(PAGE, |limit| limit.min(PAGE))), ..read };
        let first = self.page(&page).await?;
        let head = page.until.map_or(first.head, |until| until.min(first.head));
        let store = self.clone();
        let next = move |read: Read| {
            let store = store.clone();
            async move { Ok(store.page(&read).await?.events) }
        };
        Ok(Events::paged(head, page, limit, first.events, next))
    }

    async fn append(&self, append: Append) -> Result<Written, StoreError> {
        let append = Arc::new(Checked::new(append, &self.shared.types)?);
        let mut lost = None;
        if append.types.is_some() && !self.shared.odd_sessions.load(Ordering::Relaxed) {
            match Writer::append(&self.shared, &append).await {
                Reply::Recorded(written) => {
                    self.shared.recorded(written.last);
                    return Ok(written);
                }
                Reply::Refused(error) => return Err(error),
                Reply::NotRecorded => {}
                Reply::Lost => lost = Some("the connection broke".into()),
            }
        }
        for attempt in 0..=RESENT {
            match self.append_once(&append).await {
                Ok(written) => {
                    self.shared.recorded(written.last);
                    return Ok(written);
                }
                // The same ids again: recorded or not, the answer is the right one.
                Err(Failed::Broken(error)) if error::lost(&error) => lost = Some(error.into()),
                Err(Failed::Refused(StoreError::Unknown(error))) => lost = Some(error),
                // It never came to be sent this time; once sent before, nobody knows.
                Err(Failed::Refused(StoreError::Unavailable(error))) if lost.is_none() => {
                    return Err(StoreError::Unavailable(error));
                }
                Err(Failed::Refused(StoreError::Unavailable(_))) => {}
                Err(failed) => return Err(failed.into_store()),
            }
            sleep(Duration::from_millis(10 << attempt)).await;
        }
        Err(StoreError::Unknown(lost.unwrap_or_else(|| "the connection broke".into())))
    }

    async fn find(&self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        read::of_command(&mut *self.connection().await?, &self.shared, command).await
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError> {
        let found = sqlx::query_scalar(self.shared.sql.position_at()).bind(Instant(at));
        read::position(found.fetch_one(&mut *self.connection().await?).await.map_err(error::store)?)
    }

    async fn appended(&self, after: Position) {
        let mut head = self.shared.head.subscribe();
        let here = pin!(head.wait_for(|head| *head > after));
        let there = pin!(self.recorded_elsewhere(after));
        let _ = timeout(Duration::from_secs(1), select(here, there)).await;
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(PgTransaction::begin(&self.shared).await?))
    }

    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn database(&self) -> &(dyn Any + Send + Sync) {
        &self.shared.pool
    }
}

#[async_trait]
impl Tables for PgStore {
    async fn create(&self, table: &Table) -> Result<(), StoreError> {
        let mut transaction = PgTransaction::begin(&self.shared).await?;
        tables::create(transaction.connection(), &self.shared.sql, table).await?;
        transaction.commit().await
    }

    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        tables::rows(&mut *self.connection().await?, &self.shared.sql, rows).await
    }

    async fn checkpoint(&self, projection: &str) -> Result<Position, StoreError> {
        tables::checkpoint(&mut *self.connection().await?, &self.shared.sql, projection).await
    }
}
