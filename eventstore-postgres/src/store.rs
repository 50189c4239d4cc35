//! A log in PostgreSQL.

use std::{
    any::Any,
    fmt,
    pin::pin,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use eventstore_core::{
    Append, BoxError, Checkpoint, Column, Conflict, EventStore, Events, Expected, Identity, Invalid, NewTags, Page,
    Position, Prefix, Query, Raw, Read, Recorded, Rows, Select, Shard, Step, StoreError, StoredSnapshot, StreamHead,
    StreamId, Table, Tables, Timestamp, Transaction, Written,
    doctor::{Policy, Report, Severity},
};
use futures::{
    TryStreamExt,
    future::{ready, select},
};
use serde_json::value::RawValue;
use sqlx::{
    Connection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    append::{Checked, Failed},
    batch::Reply,
    claim,
    connect::PATIENCE,
    connections::{Connections, Dedicated},
    db::{Built, Db, OddSessions},
    doctor, error, fast_path,
    functions::{Function, functions},
    head::Head,
    listen::Listener,
    migrate::{self, Migrations},
    notify::Notify,
    pooler::Pooler,
    read::{self, Asked},
    session::Session,
    shared::Shared,
    snapshots,
    sql::{Sql, quoted},
    tables,
    transaction::PgTransaction,
    types::{EventTypes, array},
    writer::{Durability, Writer},
};

const PAGE: usize = 1_000;
/// How long a store that is closed waits for what has begun.
const CLOSING: Duration = Duration::from_secs(10);
/// How often an append is sent again after its connection broke, with the same ids, before the outcome is unknown; and
/// for how long at most.
const RESENT: u32 = 3;
const RESENT_FOR: Duration = PATIENCE;
/// How long a caller waits for news before it is told to look for itself.
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
        claim::own_tables(&store.shared).await?;
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
        Migrations::of(self.open(url).await?.shared).await
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

    /// The SQL that makes the functions of the log anew, for a person to read and `psql` to run as the owner: after its
    /// schema was renamed or copied, since their sources name it, or after they were replaced.
    pub fn functions_sql(&self) -> Result<String, StoreError> {
        let sql = self.sql()?;
        let make = |function: Function| {
            let statement = function.statement.replacen("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1);
            format!("{};\n\n", statement.replace("{schema}", &sql.quoted_schema()))
        };
        let functions: String = functions().into_values().map(make).collect();
        Ok(format!("BEGIN;\n\n{functions}COMMIT;\n"))
    }

    fn sql(&self) -> Result<Sql, Invalid> {
        Sql::new(&self.schema, self.tables.as_ref().unwrap_or(&self.schema))
    }

    /// The store, whatever its schema is like.
    async fn open(&self, url: &str) -> Result<PgStore, StoreError> {
        let sql = self.sql()?;
        check_parameters(url)?;
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
        let (types, head, sql) = (Arc::new(EventTypes::default()), Arc::new(Head::new()), Arc::new(sql));
        let pool = PgPoolOptions::new()
            .max_connections((self.max_connections - own - u32::from(listens)).max(1))
            .acquire_timeout(PATIENCE)
            // A round trip for each acquire would halve the speed, so only one that has been idle is asked whether it
            // still lives; one that breaks in use is noticed then.
            .test_before_acquire(false)
            .before_acquire({
                let head = head.clone();
                move |connection, meta| {
                    let (current, trusted) = (head.is_current(meta.age), head.trusts(meta.idle_for));
                    let lives = async move { trusted || connection.ping().await.is_ok() };
                    Box::pin(async move { Ok(current && lives.await) })
                }
            })
            .after_connect({
                let (head, types, sql) = (head.clone(), types.clone(), sql.clone());
                move |connection, _| {
                    let (head, types, sql) = (head.clone(), types.clone(), sql.clone());
                    Box::pin(async move { head.meet(connection, &types, &sql, "").await })
                }
            })
            .connect_lazy_with(options);
        let (odd_sessions, built) = (OddSessions::new(), Built::default());
        let db = Arc::new(Db { pool, pooler, sql, types, head, odd_sessions, built });
        let connections = Arc::new(Connections::new(db.clone(), own as usize));
        let notify = Arc::new(Notify::new(connections.clone()));
        let listener = Arc::new(Listener::new(db.clone(), notify.clone(), listens));
        let writer = Writer::new(connections.clone(), notify.clone(), self.queue, self.durability, calls);
        let shared = Shared { db, connections, notify, listener, writer: Arc::new(writer) };
        Ok(PgStore { shared: Arc::new(shared) })
    }
}

/// Refuses a URL with a parameter that the driver would pass over: one that was to demand TLS, and is misspelt, must not
/// be without effect.
fn check_parameters(url: &str) -> Result<(), Invalid> {
    const KNOWN: &[&str] = &[
        "sslmode",
        "ssl-mode",
        "sslrootcert",
        "ssl-root-cert",
        "ssl-ca",
        "sslcert",
        "ssl-cert",
        "sslkey",
        "ssl-key",
        "statement-cache-capacity",
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "password",
        "application_name",
        "options",
    ];
    let url = url.split_once('#').map_or(url, |(url, _)| url);
    let Some((_, parameters)) = url.split_once('?') else { return Ok(()) };
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        let name = &*name.replace("%5B", "[").replace("%5D", "]");
        if KNOWN.contains(&name) || (name.starts_with("options[") && name.ends_with(']')) {
            continue;
        }
        // It may be a part of a password in which a `?` or `&` was not escaped.
        let plain = !name.is_empty()
            && !parameters.contains('@')
            && name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        let named = if plain { format!(" `{name}`") } else { String::new() };
        return Err(Invalid::Url(format!(
            "the URL has a parameter{named} that is unknown; known are {}",
            KNOWN.join(", ")
        )));
    }
    Ok(())
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
        self.shared.db.sql.schema()
    }

    /// Looks at the server, the session, the role and the log, and says what is unsafe or slow about them. Changes
    /// nothing, and reads no more than a few hundred rows.
    pub async fn doctor(&self) -> Result<Report, StoreError> {
        doctor::examine(&self.shared).await
    }

    /// Waits until the appends that have begun are recorded and their callers told, and closes all connections. Of this
    /// store and its clones nothing can be used from then on: that is [`Denied`](StoreError::Denied).
    ///
    /// What is not done after ten seconds is [`Busy`](StoreError::Busy): a transaction that is open, a connection of
    /// [`database`](EventStore::database) that is in use.
    pub async fn close(&self) -> Result<(), StoreError> {
        let closed = async {
            while !self.shared.writer.is_idle() {
                sleep(Duration::from_millis(1)).await;
            }
            self.shared.db.pool.close().await;
            self.shared.listener.stop();
            self.shared.connections.close().await;
        };
        let late = |_| StoreError::Busy("an append, a transaction or a reader is under way".into());
        timeout(CLOSING, closed).await.map_err(late)
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
            // A role that may not look may still append.
            (Err(error), _) => {
                tracing::warn!(schema = self.schema(), %error, "the doctor could not look at the log");
                Ok(())
            }
        }
    }

    /// Brings the schema to this version, or says what is missing; then the tables in it that are the program's.
    async fn prepare(&self, allowed: bool) -> Result<(), StoreError> {
        self.prepare_log(allowed).await?;
        if tables::old_shadows(&mut *self.connection().await?, self.sql()).await?.is_empty() {
            return Ok(());
        }
        let renamed = async {
            let mut transaction = self.shared.transaction().await?;
            tables::rename_shadows(transaction.connection(), self.sql()).await?;
            transaction.commit().await
        };
        match renamed.await {
            // A role that may only read, or a standby, leaves them to the program.
            Err(StoreError::Denied(_) | StoreError::Unavailable(_)) => Ok(()),
            renamed => renamed,
        }
    }

    async fn prepare_log(&self, allowed: bool) -> Result<(), StoreError> {
        let sql = self.sql();
        claim::own_functions(&mut *self.connection().await?, sql).await?;
        claim::vacant(&mut *self.connection().await?, sql).await?;
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
        match migrate::apply(&self.shared).await {
            // Its role may not.
            Err(StoreError::Denied(_)) => Err(StoreError::Unmigrated { missing }),
            migrated => migrated,
        }
    }

    fn sql(&self) -> &Sql {
        self.shared.sql()
    }

    /// The columns that a table lacks, which a row may be without.
    async fn lacking(&self, table: &Table) -> Result<Vec<&'static Column>, StoreError> {
        let lacking = tables::to_add(&mut *self.connection().await?, self.sql(), table).await?;
        lacking.ok_or_else(|| StoreError::NotBuilt { table: table.to_string() })
    }

    /// A connection for single statements. Behind a pooler that forgets them, what they write is rolled back.
    async fn connection(&self) -> Result<Session, StoreError> {
        self.shared.connection().await
    }

    async fn page(&self, asked: Asked<'_>) -> Result<(Option<StoredSnapshot>, Page), StoreError> {
        let mut new = vec![];
        let in_session = async |new: &mut _| {
            let mut session = self.connection().await?;
            let server = session.server();
            asked.read(&mut session, server, &self.shared.db, new).await
        };
        let mut page = if self.shared.db.pooler == Pooler::Forgetful {
            in_session(&mut new).await
        } else {
            let mut connection = Dedicated::free(&self.shared.connections).await.map_err(error::store)?;
            let server = connection.server();
            let page = asked.read(&mut connection, server, &self.shared.db, &mut new).await;
            if page.is_ok() {
                connection.keep();
            }
            page
        };
        if let Err(StoreError::Unavailable(_)) = page {
            // A connection had broken unnoticed, in a restart of the server perhaps.
            self.shared.db.head.broke();
            page = in_session(&mut new).await;
        }
        self.shared.db.types.learn(new);
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
    async fn append_once(&self, append: &Checked) -> Result<(u64, Written), Failed> {
        if !self.shared.db.in_transactions() {
            let mut types = vec![];
            let mut connection = self.connection().await?;
            let server = connection.server();
            let written = append.record(&mut connection, &self.shared.db, &mut types, true, false).await;
            self.shared.db.types.learn(types);
            match written {
                Err(Failed::Broken(error)) if error::odd(&error) => {
                    self.shared.db.odd_sessions.seen();
                    connection.close();
                }
                written => return Ok((server, written?)),
            }
        }
        let mut transaction = self.shared.transaction().await?;
        let written = transaction.record(append).await?;
        let server = transaction.server();
        transaction.commit().await?;
        Ok((server, written))
    }

    /// The first result of an append, all of whose events were recorded before: read without the lock of the log, for what
    /// is recorded does not change. None if it is not as simple as that.
    async fn replay(&self, append: &Checked) -> Result<Option<Written>, StoreError> {
        let ids: Vec<_> = append.append.events().map(|(_, event)| event.id).collect();
        let mut new = vec![];
        let recorded = read::of_ids(&mut *self.connection().await?, &self.shared.db, &ids, &mut new).await;
        self.shared.db.types.learn(new);
        let written = append.append.replay(&recorded?);
        let whole = |written: &Written| written.last.0 - written.first.0 + 1 == ids.len() as u64;
        let Some(written) = written.filter(whole) else { return Ok(None) };
        self.flush(ids[0]).await?;
        Ok(Some(written))
    }

    /// Learns of all event types there are.
    async fn learn_types(&self) -> Result<(), StoreError> {
        let types = sqlx::query_as(self.shared.db.sql.types()).fetch_all(&mut *self.connection().await?).await;
        self.shared.db.types.learn(types.map_err(error::store)?);
        Ok(())
    }

    /// The conflict with an event of a stream that a condition asks for.
    async fn in_the_way(&self, append: &Checked, error: sqlx::Error) -> Result<StoreError, StoreError> {
        let Some(newer) = append.of_streams() else { return Ok(error::store(error)) };
        Ok(match self.page(Asked::Page(&newer)).await?.1.events.pop() {
            Some(event) => Conflict::in_the_way(event.stream, event.version).into(),
            None => error::store(error),
        })
    }

    /// Waits until everything recorded so far is on disk: before a first result is given again, for the caller that recorded it
    /// may not have waited (a pipelined batch), and giving it again writes nothing. It is the commit that waits, so it is
    /// said aloud: behind a pooler, a connection for single statements ends in a rollback. Fails if the event is not
    /// recorded any more.
    async fn flush(&self, event: Uuid) -> Result<(), StoreError> {
        let mut transaction = self.shared.transaction().await?;
        let there = fast_path::flush(transaction.connection(), &self.shared.db, event).await.map_err(error::store)?;
        transaction.commit().await.map_err(|error| StoreError::Unknown(error.into()))?;
        let lost = || StoreError::Unknown("the server has lost the end of the log meanwhile".into());
        there.then_some(()).ok_or_else(lost)
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
        Ok(self.paged(head, page, limit, first.events).asking(first.asked))
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
        let append = Arc::new(Checked::new(append, &self.shared.db.types)?);
        // What broke the connection, once it is unknown whether an attempt was recorded.
        let mut lost: Option<BoxError> = None;
        if append.types.is_some() && !self.shared.db.in_transactions() {
            match self.shared.writer.append(&append).await {
                Reply::Recorded(written) => return Ok(written),
                Reply::Refused(error) => return Err(error),
                Reply::NotRecorded => {}
                Reply::Taken => {
                    if let Some(first) = self.replay(&append).await.map_err(StoreError::though_recorded)? {
                        return Ok(first);
                    }
                }
                Reply::Lost => lost = Some("the connection broke".into()),
            }
        }
        let (start, mut last) = (Instant::now(), None);
        for attempt in 0..=RESENT {
            match self.append_once(&append).await {
                Ok((server, written)) => {
                    if written.replayed {
                        // It is recorded, by this call perhaps.
                        let first = append.append.events().next().map_or_else(Uuid::nil, |(_, event)| event.id);
                        self.flush(first).await.map_err(StoreError::though_recorded)?;
                    }
                    self.shared.notify.recorded(server, written.last);
                    return Ok(written);
                }
                // The same ids again: recorded or not, the answer is the right one.
                Err(Failed::Broken(error)) if error::lost(&error) => {
                    self.shared.db.head.broke();
                    lost = Some(error.into());
                }
                Err(Failed::Refused(StoreError::Unknown(error))) => lost = Some(error),
                // An event type this process knew is another one now.
                Err(Failed::Broken(error)) if error::is(&error, &["ES002"]) => {
                    self.shared.db.types.forget();
                    last = Some(error::store(error));
                    continue;
                }
                // It has types that this process does not know: what was decided may not have asked for them.
                Err(Failed::Broken(error)) if error::is(&error, &["ES004"]) => {
                    self.learn_types().await?;
                    last = Some(error::store(error));
                    continue;
                }
                // It did not reach the server, which had closed the connection; another may.
                Err(Failed::Broken(error)) if error::broken(&error) => {
                    self.shared.db.head.broke();
                    last = Some(error::store(error));
                }
                Err(failed) => {
                    let error = match failed {
                        Failed::Broken(error) if error::is(&error, &["ES005"]) => {
                            self.in_the_way(&append, error).await?
                        }
                        failed => failed.into_store(),
                    };
                    // An attempt that was lost may still be on its way: only what it cannot change is an answer.
                    if lost.is_none() || is_final(&error) {
                        return Err(error);
                    }
                }
            }
            if start.elapsed() > RESENT_FOR {
                break;
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
        let found = read::of_command(&mut *self.connection().await?, &self.shared.db, command, &mut new).await;
        self.shared.db.types.learn(new);
        let found = found?;
        if let Some(first) = found.first() {
            self.flush(first.id).await?;
        }
        Ok(found)
    }

    async fn recorded(&self, ids: Vec<Uuid>) -> Result<Vec<Recorded<Raw>>, StoreError> {
        let mut new = vec![];
        let found = read::of_ids(&mut *self.connection().await?, &self.shared.db, &ids, &mut new).await;
        self.shared.db.types.learn(new);
        found
    }

    async fn streams(&self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        read::streams(&mut *self.connection().await?, &self.shared.db, category, after, limit).await
    }

    async fn count(&self, read: Read) -> Result<u64, StoreError> {
        read.check()?;
        if read.query.items.iter().any(|item| item.except.is_some()) {
            let events = self.read(read).await?.events;
            return events.try_fold(0, |count, _| ready(Ok(count + 1))).await;
        }
        read::count(&mut *self.connection().await?, &self.shared.db, &read).await
    }

    async fn retag(&self, events: Vec<NewTags>) -> Result<u64, StoreError> {
        events.iter().try_for_each(NewTags::check)?;
        let all = |tags: fn(&NewTags) -> &Vec<eventstore_core::Tag>| -> Vec<_> {
            events.iter().map(|new| array(tags(new).iter().map(ToString::to_string))).collect()
        };
        let mut transaction = self.shared.transaction().await?;
        let retag = sqlx::query_scalar(self.shared.db.sql.retag())
            .bind(events.iter().map(|new| read::signed(new.position.0)).collect::<Vec<_>>())
            .bind(events.iter().map(|new| new.id).collect::<Vec<_>>())
            .bind(all(|new| &new.was))
            .bind(all(|new| &new.tags));
        let changed: i64 = retag.fetch_one(transaction.connection()).await.map_err(error::store)?;
        transaction.commit().await?;
        Ok(changed.unsigned_abs())
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError> {
        Ok(self.prefix_at(at).await?.position)
    }

    async fn prefix_at(&self, at: Timestamp) -> Result<Prefix, StoreError> {
        let prefix = if self.shared.db.pooler == Pooler::Forgetful {
            read::prefix_at(&mut *self.connection().await?, &self.shared.db, at).await
        } else {
            let mut connection = Dedicated::free(&self.shared.connections).await.map_err(error::store)?;
            let prefix = read::prefix_at(&mut connection, &self.shared.db, at).await;
            if prefix.is_ok() {
                connection.keep();
            }
            prefix
        };
        match prefix {
            // Sessions begin at another isolation level (our own code); or a connection had broken unnoticed.
            Err(error) if error::is(&error, &["ES001"]) || error::lost(&error) => {
                let mut transaction = self.shared.transaction().await?;
                let prefix = read::prefix_at(transaction.connection(), &self.shared.db, at).await;
                let prefix = prefix.map_err(error::store)?;
                transaction.rollback().await?;
                Ok(prefix)
            }
            prefix => prefix.map_err(error::store),
        }
    }

    async fn identity(&self) -> Result<Identity, StoreError> {
        read::identity(&mut *self.connection().await?, &self.shared.db).await
    }

    async fn step(&self, step: Step) -> Result<bool, StoreError> {
        if !self.shared.db.in_transactions() {
            let mut connection = self.connection().await?;
            let done = tables::step(&mut connection, self.sql(), step).await;
            if let Err(StoreError::Unavailable(_)) = &done {
                // Read-only, perhaps: the next session may be one as it should be.
                connection.close();
            }
            return done;
        }
        let mut transaction = self.shared.transaction().await?;
        let done = tables::step(transaction.connection(), self.sql(), step).await?;
        transaction.commit().await?;
        Ok(done)
    }

    async fn is_replica(&self) -> Result<bool, StoreError> {
        let replica = sqlx::query_scalar(self.sql().is_replica()).fetch_one(&mut *self.connection().await?).await;
        replica.map_err(error::store)
    }

    async fn flushed(&self, event: Uuid) -> Result<(), StoreError> {
        // The append may not have waited for the disk, in this process or in another one.
        let flushed =
            sqlx::query_scalar(self.sql().flushed()).bind(event).fetch_one(&mut *self.connection().await?).await;
        if flushed.map_err(error::store)? { Ok(()) } else { self.flush(event).await }
    }

    async fn appended(&self, after: Position) {
        let mut head = self.shared.db.head.subscribe();
        let server = head.borrow().server;
        if head.borrow().position > after {
            return;
        }
        let (_following, mut watched) = self.shared.listener.follow();
        // Another server may have lost what was followed so far.
        let appended = pin!(head.wait_for(|head| head.position > after || head.server != server));
        let unwatched = pin!(watched.changed());
        let _ = timeout(AT_LATEST, select(appended, unwatched)).await;
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(PgTransaction::begin_marked(&self.shared.db, &self.shared.notify).await?))
    }

    async fn doctor(&self) -> Result<Report, StoreError> {
        self.doctor().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.close().await
    }

    async fn snapshot(&self, boundary: &str, kind: &str) -> Result<Option<StoredSnapshot>, StoreError> {
        snapshots::snapshot(&mut *self.connection().await?, &self.shared.db.sql, boundary, kind).await
    }

    async fn keep_snapshot(&self, snapshot: StoredSnapshot, instead_of: Option<u64>) -> Result<bool, StoreError> {
        let mut transaction = self.shared.transaction().await?;
        let kept = snapshots::keep(transaction.connection(), &self.shared.db.sql, snapshot, instead_of).await?;
        transaction.commit().await?;
        Ok(kept)
    }

    async fn snapshots(&self, kind: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        snapshots::snapshots(&mut *self.connection().await?, &self.shared.db.sql, kind, limit).await
    }

    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn database(&self) -> &(dyn Any + Send + Sync) {
        &self.shared.db.pool
    }
}

#[async_trait]
impl Tables for PgStore {
    async fn create(&self, table: &Table) -> Result<(), StoreError> {
        let built = tables::is_built(&mut *self.connection().await?, &self.shared.db.sql, table).await?;
        if built {
            return Ok(());
        }
        let mut transaction = self.shared.transaction().await?;
        tables::create(transaction.connection(), &self.shared.db.sql, table).await?;
        transaction.commit().await
    }

    async fn index(&self, table: &Table) -> Result<(), StoreError> {
        if table.columns.iter().all(|column| !column.index) {
            return Ok(());
        }
        let lacking = tables::lacking(&mut *self.connection().await?, &self.shared.db.sql, table).await?;
        if lacking.is_empty() {
            return Ok(());
        }
        let mut transaction = self.shared.transaction().await?;
        tables::index(transaction.connection(), &self.shared.db.sql, table).await?;
        transaction.commit().await
    }

    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        let found = async |lacking: &[&'static Column]| {
            tables::rows(&mut *self.connection().await?, self.sql(), rows.clone(), lacking).await
        };
        let (Rows::Keys { table, .. } | Rows::Where { table, .. }) = rows else { return found(&[]).await };
        match found(&[]).await {
            Err(StoreError::Columns { .. } | StoreError::Schema(_)) => found(&self.lacking(&table).await?).await,
            found => found,
        }
    }

    async fn select(&self, select: Select) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        let found = async |lacking: &[&'static Column]| {
            tables::select(&mut *self.connection().await?, self.sql(), select.clone(), lacking).await
        };
        match found(&[]).await {
            Err(StoreError::Columns { .. } | StoreError::Schema(_)) => found(&self.lacking(&select.table).await?).await,
            found => found,
        }
    }

    async fn count_rows(&self, select: Select) -> Result<u64, StoreError> {
        let count = async |lacking: &[&'static Column]| {
            tables::count(&mut *self.connection().await?, self.sql(), select.clone(), lacking).await
        };
        match count(&[]).await {
            Err(StoreError::Columns { .. } | StoreError::Schema(_)) => count(&self.lacking(&select.table).await?).await,
            count => count,
        }
    }

    async fn shards(&self, projection: Option<&str>) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        tables::shards(&mut *self.connection().await?, &self.shared.db.sql, projection).await
    }
}
