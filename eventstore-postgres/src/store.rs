//! A log in PostgreSQL.

use std::{
    any::Any,
    fmt,
    pin::pin,
    str::FromStr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use eventstore_core::{
    Append, BoxError, Checkpoint, Column, EventStore, Events, Expected, Invalid, Page, Position, Query, Raw, Read,
    Recorded, Rows, Shard, Step, StoreError, StoredSnapshot, StreamHead, StreamId, Table, Tables, Timestamp,
    Transaction, Written,
    doctor::{Policy, Report, Severity},
};
use futures::future::select;
use serde_json::value::RawValue;
use sqlx::{
    Connection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    append::{Checked, Failed},
    doctor, error, lean,
    lines::{Line, Lines},
    migrate::{self, Migrations},
    notify::Notify,
    read::{self, Asked},
    session::{Pooler, Session},
    shared::Shared,
    snapshots,
    sql::{Sql, quoted},
    tables,
    transaction::PgTransaction,
    types::EventTypes,
    writer::{Durability, Reply, Writer},
};

const PAGE: usize = 1_000;
/// How long a connection of the pool may be idle before it is asked whether it still lives.
const ASSUMED_ALIVE: Duration = Duration::from_secs(5);
/// How often an append is sent again after its connection broke, with the same ids, before the outcome is unknown.
const RESENT: u32 = 3;
/// How long somebody waits for news before it is told to look for itself.
const AT_LATEST: Duration = Duration::from_secs(5);

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
    tables: Option<String>,
    max_connections: u32,
    migrate: bool,
    doctor: Policy,
    queue: usize,
    durability: Durability,
}

impl PgOptions {
    /// The schema of the log and of everything that belongs to it; `eventstore` unless told otherwise. One schema is
    /// one log, with positions and a lock of its own. 1 to 63 of `a-z`, `0-9` and `_`.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// The schema of the rows of read models; that of the log unless told otherwise. A role that may not make tables
    /// beside the log needs it: see [`roles_sql`](Self::roles_sql).
    pub fn tables_schema(mut self, schema: impl Into<String>) -> Self {
        self.tables = Some(schema.into());
        self
    }

    /// Whether the store may bring the schema to this version when it is opened; it may unless told otherwise. If not,
    /// a schema that is not there or older is [`StoreError::Unmigrated`]; see [`migrations`](Self::migrations) for
    /// other ways to bring it there.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// What to do about what the [doctor](PgStore::doctor) finds when the store is opened: log it, unless told
    /// otherwise.
    pub fn doctor(mut self, policy: Policy) -> Self {
        self.doctor = policy;
        self
    }

    /// How many connections the store may have open; 10 unless told otherwise, and 1 is enough.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections;
        self
    }

    /// How many appends may wait for others before the next one is refused as [`Busy`](StoreError::Busy); 10,000 unless
    /// told otherwise.
    pub fn queue(mut self, appends: usize) -> Self {
        self.queue = appends;
        self
    }

    /// What an acknowledged append has gone through; [`Durability::Strict`] unless told otherwise.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Opens the log in the database a URL names: `postgres://user:password@host:5432/database`, or with
    /// `?host=/run/postgresql` for a socket. Makes the schema if it is not there; many nodes may start at once.
    pub async fn connect(self, url: &str) -> Result<PgStore, StoreError> {
        let store = self.open(url).await?;
        store.prepare(self.migrate).await?;
        store.look(self.doctor).await?;
        Ok(store)
    }

    /// Looks which migrations were applied to the log in the database a URL names. Changes nothing.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), eventstore_core::StoreError> {
    /// # use eventstore_postgres::PgStore;
    /// let migrations = PgStore::options().migrations("postgres://owner@localhost/bank").await?;
    /// println!("{migrations}");
    /// println!("{}", migrations.script()); // for psql; or
    /// migrations.apply().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn migrations(&self, url: &str) -> Result<Migrations, StoreError> {
        Migrations::of(self.open(url).await?).await
    }

    /// The SQL that makes the schema from nothing, for a person to read and `psql` to run.
    pub fn schema_sql(&self) -> Result<String, StoreError> {
        Ok(migrate::script(&self.sql()?, 0))
    }

    /// The SQL that makes roles for the log, and gives to each what it needs and no more, for a person to read and
    /// `psql` to run: an owner, the program (which can append, and not change, delete or truncate events), and a
    /// reader. The store is then opened as the program, with the same [`tables_schema`](Self::tables_schema), which
    /// must be another than that of the log.
    pub fn roles_sql(&self) -> Result<String, StoreError> {
        let sql = self.sql()?;
        if sql.schema() == sql.tables() {
            return Err(Invalid::Request("roles need a `tables_schema` that is not that of the log".into()).into());
        }
        if sql.schema().len() > 63 - "_reader".len() {
            return Err(Invalid::name("schema", sql.schema(), "is too long to name roles after").into());
        }
        let role = |duty: &str| quoted(&format!("{}_{duty}", sql.schema()));
        let script = ["owner", "app", "reader"]
            .into_iter()
            .fold(sql.roles().0.to_string(), |script, duty| script.replace(&format!("{{{duty}}}"), &role(duty)));
        Ok(script)
    }

    fn sql(&self) -> Result<Sql, Invalid> {
        Sql::new(&self.schema, self.tables.as_ref().unwrap_or(&self.schema))
    }

    /// The store, whatever its schema is like.
    async fn open(&self, url: &str) -> Result<PgStore, StoreError> {
        let sql = self.sql()?;
        let options = PgConnectOptions::from_str(url).map_err(|error| Invalid::Url(error.to_string()))?;
        let (pooler, options) = Pooler::find(options).await?;
        // Behind a pooler the session that listens is not the one that hears.
        let listens = pooler == Pooler::None && self.max_connections >= 3;
        // Loads and appends have connections of their own, if there are enough; not where each is in a transaction.
        let own = match self.max_connections - u32::from(listens) {
            _ if pooler == Pooler::Forgetful => 0,
            connections @ 0..=5 => connections / 2,
            _ => 3,
        };
        // While the server flushes one batch, it may read the next.
        let calls = if own < 3 { 1 } else { 2 };
        let types = Arc::new(EventTypes::default());
        let pool = PgPoolOptions::new()
            .max_connections((self.max_connections - own - u32::from(listens)).max(1))
            .acquire_timeout(Duration::from_secs(10))
            // A round trip for each acquire would halve the speed, so only one that has been idle is asked whether it
            // still lives; one that breaks in use is noticed then.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move { Ok(meta.idle_for < ASSUMED_ALIVE || connection.ping().await.is_ok()) })
            })
            .after_connect({
                let types = types.clone();
                move |connection, _| {
                    let types = types.clone();
                    Box::pin(async move { types.meet(connection).await })
                }
            })
            .connect_lazy_with(options);
        let (lines, writer) = (Lines::new(own as usize), Writer::new(self.queue, self.durability, calls));
        let notify = Notify::new(sql.schema(), listens);
        Ok(PgStore { shared: Arc::new(Shared::new(pool, pooler, sql, types, lines, writer, notify)) })
    }
}

/// Whether an append that is refused like this will always be: versions only grow, and ids stay taken.
fn is_final(error: &StoreError) -> bool {
    match error {
        StoreError::Conflict(conflict) => {
            matches!(conflict.expected, Expected::Version(expected) if expected < conflict.actual)
        }
        StoreError::Duplicate { .. } | StoreError::Invalid(_) => true,
        _ => false,
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
        let (schema, tables, doctor) = ("eventstore".into(), None, Policy::default());
        let (queue, durability) = (10_000, Durability::Strict);
        PgOptions { schema, tables, max_connections: 10, migrate: true, doctor, queue, durability }
    }

    /// The schema of the log.
    pub fn schema(&self) -> &str {
        self.shared.sql.schema()
    }

    /// Looks at the server, the session, the role and the log, and says what is unsafe or slow about them. Changes
    /// nothing, and reads no more than a few hundred rows.
    pub async fn doctor(&self) -> Result<Report, StoreError> {
        doctor::examine(self).await
    }

    /// Looks, when the store is opened.
    async fn look(&self, policy: Policy) -> Result<(), StoreError> {
        if policy == Policy::Ignore {
            return Ok(());
        }
        match (self.doctor().await, policy) {
            (Ok(report), _) => {
                doctor::log(self.schema(), &report);
                let refused = policy == Policy::Refuse && report.severity() == Severity::Danger;
                if refused { Err(StoreError::Unhealthy(report)) } else { Ok(()) }
            }
            (Err(error), Policy::Refuse) => Err(error),
            // Whoever may not look may still append.
            (Err(error), _) => {
                tracing::warn!(schema = self.schema(), %error, "the doctor could not look at the log");
                Ok(())
            }
        }
    }

    /// Brings the schema to this version, or says what is missing.
    async fn prepare(&self, allowed: bool) -> Result<(), StoreError> {
        let sql = self.sql();
        let mut missing = migrate::missing(&mut *self.connection().await?, sql).await?;
        let tables = migrate::exists(&mut *self.connection().await?, sql.tables()).await?;
        if !tables && sql.tables() != sql.schema() {
            missing.push(format!("schema {}", sql.tables()));
        }
        if missing.is_empty() {
            return Ok(());
        }
        if !allowed {
            return Err(StoreError::Unmigrated { missing });
        }
        match self.migrate().await {
            // Its role may not.
            Err(StoreError::Database(error)) if error.downcast_ref().is_some_and(|why| error::is(why, &["42501"])) => {
                Err(StoreError::Unmigrated { missing })
            }
            migrated => migrated,
        }
    }

    pub(crate) async fn migrate(&self) -> Result<(), StoreError> {
        let mut transaction = PgTransaction::begin(&self.shared).await?;
        migrate::migrate(transaction.connection(), self.sql()).await?;
        transaction.commit().await
    }

    pub(crate) fn sql(&self) -> &Sql {
        &self.shared.sql
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// A connection for single statements. Behind a pooler that forgets them, what they write is rolled back.
    pub(crate) async fn connection(&self) -> Result<Session, StoreError> {
        Session::free(&self.shared).await
    }

    async fn page(&self, asked: Asked<'_>) -> Result<(Option<StoredSnapshot>, Page), StoreError> {
        let mut new = vec![];
        let mut page = if self.shared.pooler == Pooler::Forgetful {
            asked.read(&mut *self.connection().await?, &self.shared, &mut new).await
        } else {
            let mut line = Line::free(&self.shared).await.map_err(error::store)?;
            let page = asked.read(&mut line, &self.shared, &mut new).await;
            if page.is_ok() {
                line.keep();
            }
            page
        };
        if let Err(StoreError::Unavailable(_)) = page {
            // A connection of the pool had broken unnoticed, in a restart of the server perhaps.
            page = asked.read(&mut *self.connection().await?, &self.shared, &mut new).await;
        }
        self.shared.types.learn(new);
        page
    }

    /// The events that come after a page that was read.
    fn paged(&self, head: Position, page: Read, limit: Option<usize>, first: Vec<Recorded<Raw>>) -> Events {
        let store = self.clone();
        let next = move |read: Read| {
            let store = store.clone();
            async move { Ok(store.page(Asked::Page(&read)).await?.1.events) }
        };
        Events::paged(head, page, limit, first, next)
    }

    /// One statement that is a transaction of its own, unless the session's defaults forbid it.
    async fn append_once(&self, append: &Checked) -> Result<Written, Failed> {
        if !self.shared.odd_sessions.load(Ordering::Relaxed) {
            let mut types = vec![];
            let mut connection = self.connection().await?;
            let written = append.record(&mut connection, &self.shared, &mut types, true).await;
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

    /// Waits until everything recorded so far is on disk: before a first result is given again, for whoever recorded it
    /// may not have waited (a pipelined batch), and giving it again writes nothing. It is the commit that waits, so it is said aloud: behind a
    /// pooler, a connection for single statements ends in a rollback.
    async fn flush(&self) -> Result<(), StoreError> {
        let mut transaction = PgTransaction::begin(&self.shared).await?;
        lean::flush(transaction.connection(), &self.shared).await.map_err(error::store)?;
        transaction.commit().await.map_err(|error| StoreError::Unknown(error.into()))
    }
}

impl fmt::Debug for PgStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgStore").field("schema", &self.schema()).finish_non_exhaustive()
    }
}

#[async_trait]
impl EventStore for PgStore {
    async fn read(&self, read: Read) -> Result<Events, StoreError> {
        read.check()?;
        let limit = read.limit;
        let page = Read { limit: Some(limit.map_or(PAGE, |limit| limit.min(PAGE))), ..read };
        let (_, first) = self.page(Asked::Page(&page)).await?;
        let head = page.until.map_or(first.head, |until| until.min(first.head));
        Ok(self.paged(head, page, limit, first.events))
    }

    async fn read_from_snapshot(
        &self,
        stream: &StreamId,
        kind: &str,
    ) -> Result<(Option<StoredSnapshot>, Events), StoreError> {
        let (stored, first) = self.page(Asked::FromSnapshot(stream, kind, PAGE)).await?;
        let read = Read { query: Query::of(stream), limit: Some(PAGE), ..Read::default() };
        Ok((stored, self.paged(first.head, read, None, first.events)))
    }

    async fn append(&self, append: Append) -> Result<Written, StoreError> {
        let append = Arc::new(Checked::new(append, &self.shared.types)?);
        // What broke the connection, once it is unknown whether an attempt was recorded.
        let mut lost: Option<BoxError> = None;
        if append.types.is_some() && !self.shared.odd_sessions.load(Ordering::Relaxed) {
            match Writer::append(&self.shared, &append).await {
                Reply::Recorded(written) => return Ok(written),
                Reply::Refused(error) => return Err(error),
                Reply::NotRecorded => {}
                Reply::Lost => lost = Some("the connection broke".into()),
            }
        }
        let mut last = None;
        for attempt in 0..=RESENT {
            match self.append_once(&append).await {
                Ok(written) => {
                    if written.replayed {
                        // It is recorded, by this call perhaps.
                        self.flush().await.map_err(StoreError::though_recorded)?;
                    }
                    self.shared.recorded(written.last);
                    return Ok(written);
                }
                // The same ids again: recorded or not, the answer is the right one.
                Err(Failed::Broken(error)) if error::lost(&error) => lost = Some(error.into()),
                Err(Failed::Refused(StoreError::Unknown(error))) => lost = Some(error),
                // An event type this process knew is another one now.
                Err(Failed::Broken(error)) if error::is(&error, &["ES002"]) => {
                    self.shared.types.forget();
                    last = Some(error::store(error));
                    continue;
                }
                Err(failed) => {
                    let error = failed.into_store();
                    // An attempt that was lost may still be on its way: only what it cannot change is an answer.
                    if lost.is_none() || is_final(&error) {
                        return Err(error);
                    }
                }
            }
            sleep(Duration::from_millis(10 << attempt)).await;
        }
        match (lost, last) {
            (None, Some(error)) => Err(error),
            (lost, _) => Err(StoreError::Unknown(lost.unwrap_or_else(|| "the connection broke".into()))),
        }
    }

    async fn find(&self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        let mut new = vec![];
        let found = read::of_command(&mut *self.connection().await?, &self.shared, command, &mut new).await;
        self.shared.types.learn(new);
        let found = found?;
        if !found.is_empty() {
            self.flush().await?;
        }
        Ok(found)
    }

    async fn recorded(&self, ids: Vec<Uuid>) -> Result<Vec<Recorded<Raw>>, StoreError> {
        let mut new = vec![];
        let found = read::of_ids(&mut *self.connection().await?, &self.shared, &ids, &mut new).await;
        self.shared.types.learn(new);
        found
    }

    async fn streams(&self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        read::streams(&mut *self.connection().await?, &self.shared, category, after, limit).await
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError> {
        read::position_at(&mut *self.connection().await?, &self.shared, at).await
    }

    async fn step(&self, step: Step) -> Result<bool, StoreError> {
        let Shared { pooler, odd_sessions, .. } = &*self.shared;
        if *pooler != Pooler::Forgetful && !odd_sessions.load(Ordering::Relaxed) {
            return tables::step(&mut *self.connection().await?, self.sql(), step).await;
        }
        let mut transaction = PgTransaction::begin(&self.shared).await?;
        let done = tables::step(transaction.connection(), self.sql(), step).await?;
        transaction.commit().await?;
        Ok(done)
    }

    async fn flushed(&self, _: Position) -> Result<(), StoreError> {
        // Whoever appends may not wait for the disk, in this process or in another one.
        let flushed = sqlx::query_scalar(self.sql().flushed()).fetch_one(&mut *self.connection().await?).await;
        if flushed.map_err(error::store)? { Ok(()) } else { self.flush().await }
    }

    async fn appended(&self, after: Position) {
        let mut head = self.shared.head.subscribe();
        if *head.borrow() > after {
            return;
        }
        let (_following, mut watched) = Notify::follow(&self.shared);
        let appended = pin!(head.wait_for(|head| *head > after));
        let unwatched = pin!(watched.changed());
        let _ = timeout(AT_LATEST, select(appended, unwatched)).await;
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(PgTransaction::begin(&self.shared).await?))
    }

    async fn doctor(&self) -> Result<Report, StoreError> {
        self.doctor().await
    }

    async fn snapshot(&self, boundary: &str, kind: &str) -> Result<Option<StoredSnapshot>, StoreError> {
        snapshots::snapshot(&mut *self.connection().await?, &self.shared.sql, boundary, kind).await
    }

    async fn keep_snapshot(&self, snapshot: StoredSnapshot, instead_of: Option<u64>) -> Result<bool, StoreError> {
        let mut transaction = PgTransaction::begin(&self.shared).await?;
        let kept = snapshots::keep(transaction.connection(), &self.shared.sql, snapshot, instead_of).await?;
        transaction.commit().await?;
        Ok(kept)
    }

    async fn snapshots(&self, kind: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        snapshots::snapshots(&mut *self.connection().await?, &self.shared.sql, kind, limit).await
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
        let built = tables::is_built(&mut *self.connection().await?, &self.shared.sql, table).await?;
        if built {
            return Ok(());
        }
        let mut transaction = PgTransaction::begin(&self.shared).await?;
        tables::create(transaction.connection(), &self.shared.sql, table).await?;
        transaction.commit().await
    }

    async fn index(&self, table: &Table) -> Result<(), StoreError> {
        if table.columns.iter().all(|column| !column.index) {
            return Ok(());
        }
        let lacking = tables::lacking(&mut *self.connection().await?, &self.shared.sql, table).await?;
        if lacking.is_empty() {
            return Ok(());
        }
        let mut transaction = PgTransaction::begin(&self.shared).await?;
        tables::index(transaction.connection(), &self.shared.sql, table).await?;
        transaction.commit().await
    }

    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        let found = async |lacking: &[&'static Column]| {
            tables::rows(&mut *self.connection().await?, self.sql(), rows.clone(), lacking).await
        };
        let (Rows::Keys { table, .. } | Rows::Where { table, .. }) = rows else { return found(&[]).await };
        match found(&[]).await {
            // It may lack a column that a row may be without.
            Err(StoreError::Columns { .. }) => {
                let lacking = tables::to_add(&mut *self.connection().await?, self.sql(), &table).await?;
                found(&lacking.ok_or_else(|| StoreError::NotBuilt { table: table.to_string() })?).await
            }
            found => found,
        }
    }

    async fn shards(&self, projection: Option<&str>) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        tables::shards(&mut *self.connection().await?, &self.shared.sql, projection).await
    }
}
