//! The store: options, connecting, and the contract of core, delegated to the other files.

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
    append::{AppendError, Checked},
    batch::Reply,
    claim,
    connect::CONNECT_TIMEOUT,
    connections::{Connections, Dedicated},
    db::{BuiltTables, Db, OddSessions},
    doctor, error, fast_path,
    functions::{Function, functions},
    head::Head,
    listen::Listener,
    migrate::{self, Migrations},
    notify::Notify,
    pooler::Pooler,
    read::{self, PageRequest},
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
/// How often a read of a table looks at the columns of the table again: one may be added meanwhile.
const LOOKS: u32 = 2;
/// How long `close` waits for operations that have begun.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often, and for how long at most, an append is sent again with the same ids after its connection broke. After
/// that the error is [`StoreError::Unknown`].
const RESENDS: u32 = 3;
const RESEND_TIME: Duration = CONNECT_TIMEOUT;
/// How long `appended` waits at most.
const NEWS_TIMEOUT: Duration = Duration::from_secs(5);

/// A log in PostgreSQL, shared by its clones.
#[derive(Clone)]
pub struct PgStore {
    shared: Arc<Shared>,
}

/// Options to open a log: schemas, connections, migrations, durability.
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
    /// Sets the schema of the log and of everything that belongs to it; the default is `eventstore`. One schema is one
    /// log, with its own positions and its own append lock. The name has 1 to 63 characters of `a-z`, `0-9` and `_`,
    /// the first not a digit; another one is [`StoreError::Invalid`] when the log is opened.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Sets the schema of the rows of read models; the default is the schema of the log. A role that may not create
    /// tables in the schema of the log needs another: see [`roles_sql`](Self::roles_sql). The rules for names are those
    /// of [`schema`](Self::schema).
    pub fn tables_schema(mut self, schema: impl Into<String>) -> Self {
        self.tables = Some(schema.into());
        self
    }

    /// Sets whether opening the store applies missing migrations; the default is `true`. With `false`, a schema that
    /// lacks migrations is [`StoreError::Unmigrated`]. [`migrations`](Self::migrations) applies or prints them.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// Sets what to do about the findings of the [doctor](PgStore::doctor) when the store is opened; the default is to
    /// log them. With [`Policy::Refuse`], a danger is [`StoreError::Unhealthy`].
    pub fn doctor(mut self, policy: Policy) -> Self {
        self.doctor = policy;
        self
    }

    /// Sets how many connections the store may have open; the default is 10, and 1 is enough.
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections;
        self
    }

    /// Sets how many appends may wait in the queue; the default is 10,000. Any further append is
    /// [`Busy`](StoreError::Busy) at once.
    pub fn queue(mut self, appends: usize) -> Self {
        self.queue = appends;
        self
    }

    /// Sets when readers may see an append; the default is [`Durability::Strict`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Opens the log in the database that a URL names: `postgres://user:password@host:5432/database`, or with
    /// `?host=/run/postgresql` for a socket. Creates and migrates the schema if allowed; several nodes may start at
    /// once.
    ///
    /// # Errors
    /// - [`StoreError::Invalid`]: the URL or the name of a schema.
    /// - [`StoreError::Unavailable`]: the server does not answer within ten seconds.
    /// - [`StoreError::Denied`]: the user, the password, the database, or TLS.
    /// - [`StoreError::Unmigrated`]: migrations are missing, and the options or the rights of the role forbid to apply
    ///   them.
    /// - [`StoreError::Schema`]: the schema belongs to another log or to a later release, or has tables of another
    ///   program.
    /// - [`StoreError::Unhealthy`]: the doctor found a danger, with [`Policy::Refuse`].
    pub async fn connect(self, url: &str) -> Result<PgStore, StoreError> {
        let store = self.open(url).await?;
        store.prepare(self.migrate).await?;
        claim::claim_tables(&store.shared).await?;
        store.run_doctor(self.doctor).await?;
        Ok(store)
    }

    /// Returns which migrations were applied to the log in the database that a URL names, and which are missing.
    /// Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for the URL or the name of a schema, [`StoreError::Unavailable`] or
    /// [`StoreError::Denied`] for the connection, [`StoreError::Schema`] if the log was migrated by a later release
    /// that this one does not work with.
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

    /// Returns the SQL that creates the schema from nothing, for an operator to read and to run with `psql`.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for the name of a schema.
    pub fn schema_sql(&self) -> Result<String, StoreError> {
        Ok(migrate::script(&self.sql()?, 0))
    }

    /// Returns the SQL that creates roles for the log with the least rights, for an operator to read and to run with
    /// `psql`: an owner, the program (which can append, but not change, delete or truncate events), and a reader. The
    /// store is then opened as the program, with the same [`tables_schema`](Self::tables_schema).
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for the name of a schema: the schema of rows must differ from that of the log, whose
    /// name may have 56 characters.
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

    /// Returns the SQL that creates the functions of the log again, for an operator to read and to run with `psql` as
    /// the owner: after the schema was renamed or copied, since the functions name it, or after a function was
    /// replaced.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for the name of a schema.
    pub fn functions_sql(&self) -> Result<String, StoreError> {
        let sql = self.sql()?;
        // The migrations say `CREATE FUNCTION` where a function was new.
        let create = |function: Function| {
            let statement = function.statement.replacen("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1);
            format!("{};\n\n", statement.replace("{schema}", &sql.quoted_schema()))
        };
        let functions: String = functions().into_values().map(create).collect();
        Ok(sql.functions().0.replace("{functions}", &functions))
    }

    fn sql(&self) -> Result<Sql, Invalid> {
        Sql::new(&self.schema, self.tables.as_ref().unwrap_or(&self.schema))
    }

    /// Returns the store without a look at its schema.
    async fn open(&self, url: &str) -> Result<PgStore, StoreError> {
        let sql = self.sql()?;
        check_parameters(url)?;
        let options = PgConnectOptions::from_str(url).map_err(|error| Invalid::Url(error.to_string()))?;
        let (pooler, options) = Pooler::find(options).await?;
        // Behind a pooler, the session that listens is not the one that receives. A store of fewer than three
        // connections spares none for it.
        let listens = pooler == Pooler::None && self.max_connections >= 3;
        // Loads and appends have dedicated connections, if there are enough. Behind a forgetful pooler every operation
        // is a transaction, so the pool has all.
        let own = match self.max_connections - u32::from(listens) {
            _ if pooler == Pooler::Forgetful => 0,
            connections @ 0..=5 => connections / 2,
            _ => 3,
        };
        // With two calls, the server reads the next batch while it flushes the first.
        let calls = if own < 3 { 1 } else { 2 };
        let (types, head, sql) = (Arc::new(EventTypes::default()), Arc::new(Head::new()), Arc::new(sql));
        let pool = PgPoolOptions::new()
            .max_connections((self.max_connections - own - u32::from(listens)).max(1))
            .acquire_timeout(CONNECT_TIMEOUT)
            // A ping for each acquire would halve the speed, so only a connection that was idle is pinged. A connection
            // that breaks in use fails its operation.
            .test_before_acquire(false)
            .before_acquire({
                let head = head.clone();
                move |connection, meta| {
                    let (current, trusted) = (head.is_current(meta.age), head.trusts_idle(meta.idle_for));
                    let lives = async move { trusted || connection.ping().await.is_ok() };
                    Box::pin(async move { Ok(current && lives.await) })
                }
            })
            .after_connect({
                let (head, types, sql) = (head.clone(), types.clone(), sql.clone());
                move |connection, _| {
                    let (head, types, sql) = (head.clone(), types.clone(), sql.clone());
                    Box::pin(async move { head.inspect(connection, &types, &sql, "").await })
                }
            })
            .connect_lazy_with(options);
        let (odd_sessions, built) = (OddSessions::new(), BuiltTables::default());
        let db = Arc::new(Db { pool, pooler, sql, types, head, odd_sessions, built });
        let connections = Arc::new(Connections::new(db.clone(), own as usize));
        let notify = Arc::new(Notify::new(connections.clone()));
        let listener = Arc::new(Listener::new(db.clone(), notify.clone(), listens));
        let writer = Writer::new(connections.clone(), notify.clone(), self.queue, self.durability, calls);
        let shared = Shared { db, connections, notify, listener, writer: Arc::new(writer) };
        Ok(PgStore { shared: Arc::new(shared) })
    }
}

/// Refuses a URL with a parameter that the driver would ignore: a misspelt parameter that should demand TLS must not be
/// without effect.
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
        // The name may be part of a password with an unescaped `?` or `&`, which the error must not show.
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

/// Whether a refusal is final, whatever else is recorded: versions only grow, and recorded ids stay recorded.
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
    /// Opens the log in the schema `eventstore` of the database that a URL names, and creates it if it does not exist.
    /// For other settings, see [`options`](Self::options).
    ///
    /// # Errors
    /// Those of [`PgOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::options().connect(url).await
    }

    /// Returns the default options.
    pub fn options() -> PgOptions {
        let (schema, tables, doctor) = ("eventstore".into(), None, Policy::default());
        let (queue, durability) = (10_000, Durability::Strict);
        PgOptions { schema, tables, max_connections: 10, migrate: true, doctor, queue, durability }
    }

    /// Returns the schema of the log.
    pub fn schema(&self) -> &str {
        self.shared.db.sql.schema()
    }

    /// Examines the server, the session, the role and the log, and reports what is unsafe or slow about them. Changes
    /// nothing, and reads at most a few hundred rows.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Busy`] or [`StoreError::Denied`] if the server cannot be asked. What
    /// is wrong with the log is a finding, not an error.
    pub async fn doctor(&self) -> Result<Report, StoreError> {
        doctor::examine(&self.shared).await
    }

    /// Waits until the appends that have begun are recorded and answered, and closes all connections. After that, every
    /// operation of this store and its clones is [`Denied`](StoreError::Denied).
    ///
    /// # Errors
    /// [`Busy`](StoreError::Busy) if an append, a transaction or a connection of [`database`](EventStore::database) is
    /// still in use after ten seconds.
    pub async fn close(&self) -> Result<(), StoreError> {
        let closed = async {
            while !self.shared.writer.is_idle() {
                sleep(Duration::from_millis(1)).await;
            }
            self.shared.db.pool.close().await;
            self.shared.listener.stop();
            self.shared.connections.close().await;
        };
        let timed_out = |_| StoreError::Busy("an append, a transaction or a reader is still open".into());
        timeout(CLOSE_TIMEOUT, closed).await.map_err(timed_out)
    }

    /// Runs the doctor when the store is opened.
    async fn run_doctor(&self, policy: Policy) -> Result<(), StoreError> {
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
            // A role that may not read the catalog may still append.
            (Err(error), _) => {
                tracing::warn!(schema = self.schema(), %error, "the doctor could not examine the log");
                Ok(())
            }
        }
    }

    /// Migrates the schema, and then gives shadow tables of release 0.1 their present names.
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
            // A read-only role or a standby leaves the renaming to a node that writes.
            Err(StoreError::Denied(_) | StoreError::Unavailable(_)) => Ok(()),
            renamed => renamed,
        }
    }

    /// Applies missing migrations if `allowed`; otherwise they are [`StoreError::Unmigrated`].
    async fn prepare_log(&self, allowed: bool) -> Result<(), StoreError> {
        let sql = self.sql();
        claim::check_functions(&mut *self.connection().await?, sql).await?;
        claim::check_vacant(&mut *self.connection().await?, sql).await?;
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
            // The role lacks the rights.
            Err(StoreError::Denied(_)) => Err(StoreError::Unmigrated { missing }),
            migrated => migrated,
        }
    }

    fn sql(&self) -> &Sql {
        self.shared.sql()
    }

    /// Returns the optional columns that a table lacks. A missing table is [`StoreError::NotBuilt`].
    async fn missing_columns(&self, table: &Table) -> Result<Vec<&'static Column>, StoreError> {
        let lacking = tables::missing_columns(&mut *self.connection().await?, self.sql(), table).await?;
        lacking.ok_or_else(|| StoreError::NotBuilt { table: table.to_string() })
    }

    /// Returns a connection for single statements. Behind a forgetful pooler, what they write is rolled back.
    async fn connection(&self) -> Result<Session, StoreError> {
        self.shared.connection().await
    }

    /// Reads a page on a dedicated connection, and once more on one of the pool if the first connection had broken.
    async fn page(&self, asked: PageRequest<'_>) -> Result<(Option<StoredSnapshot>, Page), StoreError> {
        let mut new = vec![];
        let in_session = async |new: &mut _| {
            let mut session = self.connection().await?;
            let server = session.server();
            asked.read(&mut session, server, &self.shared.db, new).await
        };
        let mut page = if self.shared.db.pooler == Pooler::Forgetful {
            in_session(&mut new).await
        } else {
            let mut connection = Dedicated::acquire(&self.shared.connections).await.map_err(error::store)?;
            let server = connection.server();
            let page = asked.read(&mut connection, server, &self.shared.db, &mut new).await;
            if page.is_ok() {
                connection.keep();
            }
            page
        };
        if let Err(StoreError::Unavailable(_)) = page {
            // The connection had broken unnoticed, as in a restart of the server.
            self.shared.db.head.note_broken();
            page = in_session(&mut new).await;
        }
        self.shared.db.types.learn(new);
        page
    }

    /// Returns the events of a first page and of the pages after it, which are read on demand.
    fn following_pages(&self, head: Position, page: Read, limit: Option<usize>, first: Vec<Recorded<Raw>>) -> Events {
        let store = self.clone();
        let next = move |read: Read| {
            let store = store.clone();
            async move { Ok(store.page(PageRequest::Page(&read)).await?.1.events) }
        };
        Events::paged(head, page, limit, first, next)
    }

    /// Appends by one statement, which is its own transaction; in an explicit transaction if the session's defaults
    /// demand it. Returns the server as well.
    async fn append_once(&self, append: &Checked) -> Result<(u64, Written), AppendError> {
        if !self.shared.db.in_transactions() {
            let mut types = vec![];
            let mut connection = self.connection().await?;
            let server = connection.server();
            let written = append.record(&mut connection, &self.shared.db, &mut types, true, false).await;
            self.shared.db.types.learn(types);
            match written {
                Err(AppendError::Broken(error)) if error::is_unsuitable_session(&error) => {
                    self.shared.db.odd_sessions.note_session();
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

    /// Returns the first result of an append whose events were all recorded before, and `None` in any other case. Reads
    /// without the append lock, since recorded events do not change.
    async fn first_result(&self, append: &Checked) -> Result<Option<Written>, StoreError> {
        let ids: Vec<_> = append.append.events().map(|(_, event)| event.id).collect();
        let mut new = vec![];
        let recorded = read::events_by_ids(&mut *self.connection().await?, &self.shared.db, &ids, &mut new).await;
        self.shared.db.types.learn(new);
        let written = append.append.replay(&recorded?);
        let whole = |written: &Written| written.last.0 - written.first.0 + 1 == ids.len() as u64;
        let Some(written) = written.filter(whole) else { return Ok(None) };
        self.flush(ids[0]).await?;
        Ok(Some(written))
    }

    /// Reads the list of event types.
    async fn learn_types(&self) -> Result<(), StoreError> {
        let types = sqlx::query_as(self.shared.db.sql.types()).fetch_all(&mut *self.connection().await?).await;
        self.shared.db.types.learn(types.map_err(error::store)?);
        Ok(())
    }

    /// Returns the conflict with an event in a stream that the condition names; the error itself if there is none.
    async fn stream_conflict(&self, append: &Checked, error: sqlx::Error) -> Result<StoreError, StoreError> {
        let Some(newer) = append.stream_condition() else { return Ok(error::store(error)) };
        Ok(match self.page(PageRequest::Page(&newer)).await?.1.events.pop() {
            Some(event) => Conflict::in_the_way(event.stream, event.version).into(),
            None => error::store(error),
        })
    }

    /// Waits until everything recorded so far is on disk. A first result is returned only after that: a pipelined batch
    /// may have recorded it without a wait for the disk, and returning it again writes nothing. The commit is what
    /// waits, so the transaction is explicit: behind a forgetful pooler, a connection for single statements ends in a
    /// rollback. The error is [`StoreError::Unknown`] if the event is not recorded any more.
    async fn flush(&self, event: Uuid) -> Result<(), StoreError> {
        let mut transaction = self.shared.transaction().await?;
        let is_recorded =
            fast_path::flush(transaction.connection(), &self.shared.db, event).await.map_err(error::store)?;
        transaction.commit().await.map_err(|error| StoreError::Unknown(error.into()))?;
        let lost = || StoreError::Unknown("the server has lost the end of the log meanwhile".into());
        is_recorded.then_some(()).ok_or_else(lost)
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
        let (_, first) = self.page(PageRequest::Page(&page)).await?;
        let head = page.until.map_or(first.head, |until| until.min(first.head));
        Ok(self.following_pages(head, page, limit, first.events).asking(first.asked))
    }

    async fn read_from_snapshot(
        &self,
        stream: &StreamId,
        kind: &str,
    ) -> Result<(Option<StoredSnapshot>, Events), StoreError> {
        let (stored, first) = self.page(PageRequest::FromSnapshot(stream, kind, PAGE)).await?;
        let read = Read { query: Query::of(stream), limit: Some(PAGE), ..Read::default() };
        Ok((stored, self.following_pages(first.head, read, None, first.events)))
    }

    async fn append(&self, append: Append) -> Result<Written, StoreError> {
        let append = Arc::new(Checked::new(append, &self.shared.db.types)?);
        // The error after which it is unknown whether an attempt was recorded.
        let mut lost: Option<BoxError> = None;
        if append.types.is_some() && !self.shared.db.in_transactions() {
            match self.shared.writer.append(&append).await {
                Reply::Recorded(written) => return Ok(written),
                Reply::Refused(error) => return Err(error),
                Reply::NotRecorded => {}
                Reply::RepeatsIds => {
                    if let Some(first) = self.first_result(&append).await.map_err(StoreError::though_recorded)? {
                        return Ok(first);
                    }
                }
                Reply::Lost => lost = Some("the connection broke".into()),
            }
        }
        let (start, mut last) = (Instant::now(), None);
        for attempt in 0..=RESENDS {
            match self.append_once(&append).await {
                Ok((server, written)) => {
                    if written.replayed {
                        // The append is recorded, perhaps by an earlier attempt of this call.
                        let first = append.append.events().next().map_or_else(Uuid::nil, |(_, event)| event.id);
                        self.flush(first).await.map_err(StoreError::though_recorded)?;
                    }
                    self.shared.notify.note_recorded(server, written.last);
                    return Ok(written);
                }
                // The next attempt has the same ids: recorded or not, its result is right.
                Err(AppendError::Broken(error)) if error::is_lost(&error) => {
                    self.shared.db.head.note_broken();
                    lost = Some(error.into());
                }
                Err(AppendError::Refused(StoreError::Unknown(error))) => lost = Some(error),
                // The key of an event type has another meaning now, as after a restore.
                Err(AppendError::Broken(error)) if error::has_code(&error, &["ES002"]) => {
                    self.shared.db.types.forget();
                    last = Some(error::store(error));
                    continue;
                }
                // The log has types that this process does not know, which the condition may not except.
                Err(AppendError::Broken(error)) if error::has_code(&error, &["ES004"]) => {
                    self.learn_types().await?;
                    last = Some(error::store(error));
                    continue;
                }
                // The append did not reach the server, which had closed the connection.
                Err(AppendError::Broken(error)) if error::is_broken(&error) => {
                    self.shared.db.head.note_broken();
                    last = Some(error::store(error));
                }
                Err(failed) => {
                    let error = match failed {
                        AppendError::Broken(error) if error::has_code(&error, &["ES005"]) => {
                            self.stream_conflict(&append, error).await?
                        }
                        failed => failed.into_store(),
                    };
                    // A lost attempt may still be recorded, so only a refusal that it cannot change is returned.
                    if lost.is_none() || is_final(&error) {
                        return Err(error);
                    }
                }
            }
            if start.elapsed() > RESEND_TIME {
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
        let found = read::events_of_command(&mut *self.connection().await?, &self.shared.db, command, &mut new).await;
        self.shared.db.types.learn(new);
        let found = found?;
        if let Some(first) = found.first() {
            self.flush(first.id).await?;
        }
        Ok(found)
    }

    async fn recorded(&self, ids: Vec<Uuid>) -> Result<Vec<Recorded<Raw>>, StoreError> {
        let mut new = vec![];
        let found = read::events_by_ids(&mut *self.connection().await?, &self.shared.db, &ids, &mut new).await;
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
            let mut connection = Dedicated::acquire(&self.shared.connections).await.map_err(error::store)?;
            let prefix = read::prefix_at(&mut connection, &self.shared.db, at).await;
            if prefix.is_ok() {
                connection.keep();
            }
            prefix
        };
        match prefix {
            // Sessions begin at another isolation level, which the log's own code reports; or the connection had
            // broken.
            Err(error) if error::has_code(&error, &["ES001"]) || error::is_lost(&error) => {
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
                // The session may be read-only, and the next one may not be.
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
        // A pipelined append, of any process, may not be on disk yet.
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
        let (_waiting, mut watched) = self.shared.listener.watch();
        // Another server may lack events that this caller has read, so the caller must read again.
        let appended = pin!(head.wait_for(|head| head.position > after || head.server != server));
        let unwatched = pin!(watched.changed());
        let _ = timeout(NEWS_TIMEOUT, select(appended, unwatched)).await;
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

    async fn rows_of(
        &self,
        shard: &Shard,
        from: &Checkpoint,
        table: Table,
        keys: Vec<String>,
    ) -> Result<Option<Vec<(String, Box<RawValue>)>>, StoreError> {
        let mut lacking = Lacking::of(table);
        loop {
            let asked = (table, keys.clone());
            let found =
                tables::rows_of(&mut *self.connection().await?, self.sql(), shard, from, asked, &lacking.columns).await;
            if let Some(done) = lacking.settled(self, found).await {
                return done;
            }
        }
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        read::time(&mut *self.connection().await?, &self.shared.db).await
    }

    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn database(&self) -> &(dyn Any + Send + Sync) {
        &self.shared.db.pool
    }
}

/// The columns that a table lacks, as far as a read of it knows: none at first.
struct Lacking {
    table: Table,
    columns: Vec<&'static Column>,
    looks: u32,
}

impl Lacking {
    fn of(table: Table) -> Self {
        Self { table, columns: vec![], looks: 0 }
    }

    /// Returns the result of a read; `None` if it must be repeated with other columns. One may be added between a look at
    /// the columns and the read.
    async fn settled<T>(&mut self, store: &PgStore, read: Result<T, StoreError>) -> Option<Result<T, StoreError>> {
        if self.looks == LOOKS || !matches!(read, Err(StoreError::Columns { .. } | StoreError::Schema(_))) {
            return Some(read);
        }
        self.looks += 1;
        match store.missing_columns(&self.table).await {
            Ok(columns) => self.columns = columns,
            Err(error) => return Some(Err(error)),
        }
        None
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
        let lacking = tables::columns_without_index(&mut *self.connection().await?, &self.shared.db.sql, table).await?;
        if lacking.is_empty() {
            return Ok(());
        }
        let mut transaction = self.shared.transaction().await?;
        tables::index(transaction.connection(), &self.shared.db.sql, table).await?;
        transaction.commit().await
    }

    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        let (Rows::Keys { table, .. } | Rows::Where { table, .. }) = rows else {
            return tables::rows(&mut *self.connection().await?, self.sql(), rows, &[]).await;
        };
        let mut lacking = Lacking::of(table);
        loop {
            let found = tables::rows(&mut *self.connection().await?, self.sql(), rows.clone(), &lacking.columns).await;
            if let Some(done) = lacking.settled(self, found).await {
                return done;
            }
        }
    }

    async fn select(&self, select: Select) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        let mut lacking = Lacking::of(select.table);
        loop {
            let found =
                tables::select(&mut *self.connection().await?, self.sql(), select.clone(), &lacking.columns).await;
            if let Some(done) = lacking.settled(self, found).await {
                return done;
            }
        }
    }

    async fn count_rows(&self, select: Select) -> Result<u64, StoreError> {
        let mut lacking = Lacking::of(select.table);
        loop {
            let found =
                tables::count(&mut *self.connection().await?, self.sql(), select.clone(), &lacking.columns).await;
            if let Some(done) = lacking.settled(self, found).await {
                return done;
            }
        }
    }

    async fn shards(&self, projection: Option<&str>) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        tables::shards(&mut *self.connection().await?, &self.shared.db.sql, projection).await
    }
}

#[cfg(test)]
mod tests {
    use eventstore_core::Version;

    use super::*;

    #[test]
    fn a_refusal_is_final_if_no_further_event_can_change_it() {
        let conflict =
            |expected, actual| is_final(&Conflict::new("toy-a".parse().unwrap(), expected, Version(actual)).into());
        assert!(conflict(Expected::Version(Version(3)), 4), "the stream is beyond the version");
        assert!(!conflict(Expected::Version(Version(4)), 3), "a lost attempt may still bring it there");
        assert!(!conflict(Expected::Exists, 0), "a lost attempt may still create it");
        assert!(is_final(&Invalid::Url("no host".into()).into()));
        assert!(!is_final(&StoreError::Busy("a lock".into())) && !is_final(&StoreError::Unavailable("down".into())));
    }

    #[test]
    fn a_parameter_that_the_driver_would_ignore_is_refused_without_showing_a_password() {
        let check = |url: &str| check_parameters(url).map_err(|error| error.to_string());
        assert_eq!(check("postgres://bank@localhost/bank"), Ok(()));
        assert_eq!(
            check("postgres://bank@localhost/bank?sslmode=require&options[jit]=off&options%5Bjit%5D=off"),
            Ok(())
        );
        assert_eq!(check("postgres://bank@localhost/bank#?sslmod=require"), Ok(()), "a fragment has no parameters");
        let misspelt = check("postgres://bank@localhost/bank?sslmod=require").expect_err("it has no effect");
        assert!(misspelt.contains("`sslmod`"), "{misspelt}");
        let password = check("postgres://bank:se?cret@localhost/bank").expect_err("the URL is misread");
        assert!(!password.contains("cret@"), "{password}");
    }

    #[test]
    fn a_parameter_is_known_by_its_whole_name() {
        for url in ["postgres://h/d?options[jit", "postgres://h/d?ssl=require", "postgres://h/d?=1"] {
            assert!(check_parameters(url).is_err(), "{url}");
        }
    }
}
