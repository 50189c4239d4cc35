//! The store: opening, closing, and the contract of core, delegated to the other files.

use std::{any::Any, path::Path, pin::pin, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use eventstore_core::{
    Append, Checkpoint, EventStore, Events, Identity, Invalid, NewTags, Position, Prefix, Raw, Read, Recorded, Rows,
    Select, Shard, StoreError, StoredSnapshot, StreamHead, Table, Tables, Timestamp, Transaction, Written,
    doctor::Report, testing::Clock,
};
use futures::future::select;
use serde_json::value::RawValue;
use sqlx::{
    ConnectOptions, Sqlite, SqliteConnection,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::{
    sync::{Mutex, watch},
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{
    append::Checked,
    doctor, error,
    file::File,
    migrate, read, retag,
    shared::{Shared, Writer},
    snapshots, tables,
    transaction::SqliteTransaction,
};

const PAGE: usize = 1_000;
/// How long a question about an instant waits for an open transaction.
const WRITER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many reads may run at the same time.
const READERS: u32 = 4;
/// How long `close` waits for operations that have begun.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long SQLite itself waits for a lock of another process before the store asks again.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// A log in a SQLite file, shared by its clones. Other handles and other processes may have the file open too.
#[derive(Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

impl SqliteStore {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    /// - [`StoreError::Denied`]: the file or its folder may not be read or written, or does not exist.
    /// - [`StoreError::Damaged`]: the file is damaged, or is no SQLite database.
    /// - [`StoreError::Schema`]: the file has tables of another program or of a later release.
    /// - [`StoreError::Unmigrated`]: the file is read-only and lacks migrations.
    /// - [`StoreError::Busy`]: another process holds the write lock for several seconds.
    /// - [`StoreError::Invalid`]: the path is empty or `:memory:`.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::with_clock(path, &Clock::new()).await
    }

    /// Opens the file that a URL names, or creates it: `sqlite://bank.db` (in the working directory),
    /// `sqlite:///var/lib/bank.db`. With `?mode=rw` the file must exist.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for the URL, and those of [`open`](Self::open).
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("sqlite") {
            return Err(Invalid::Url("a file is named by a URL like `sqlite://bank.db`".into()).into());
        }
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (file, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        if matches!(file, ":memory:" | "memory:") || parameters.split('&').any(|parameter| parameter == "mode=memory") {
            return Err(in_memory());
        }
        let options = SqliteConnectOptions::from_str(&format!("sqlite://{rest}"));
        let options = options.map_err(|error| Invalid::Url(error.to_string()))?;
        let has_mode = parameters.split('&').any(|parameter| parameter.starts_with("mode="));
        let options = if has_mode { options } else { options.create_if_missing(true) };
        Self::open_with(options, Clock::new()).await
    }

    /// Opens the file, or creates it, with a clock of the caller's.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn with_clock(path: impl AsRef<Path>, clock: &Clock) -> Result<Self, StoreError> {
        Self::open_with(SqliteConnectOptions::new().filename(path).create_if_missing(true), clock.clone()).await
    }

    async fn open_with(options: SqliteConnectOptions, clock: Clock) -> Result<Self, StoreError> {
        let file = options.get_filename().to_owned();
        if file == Path::new(":memory:") {
            return Err(in_memory());
        }
        if file.as_os_str().is_empty() {
            // SQLite would create a temporary file, which no program could open again.
            return Err(Invalid::Url("name a file: `sqlite://bank.db`".into()).into());
        }
        Self::open_file(options, clock).await.map_err(|error| error::opening(&file, error))
    }

    async fn open_file(options: SqliteConnectOptions, clock: Clock) -> Result<Self, StoreError> {
        let options = options.busy_timeout(BUSY_TIMEOUT).synchronous(SqliteSynchronous::Full);
        let mut connection = options.clone().connect().await.map_err(error::store)?;
        write_ahead(&mut connection).await?;
        let file = Arc::new(File::new(options.get_filename()));
        // All further connections open this file by its absolute path, and create no other.
        let options = options.filename(file.path()).create_if_missing(false);
        let readers = SqlitePoolOptions::new().max_connections(READERS).test_before_acquire(false);
        let readers = readers.connect_lazy_with(options.clone().pragma("query_only", "ON"));
        let writer = Arc::new(Mutex::new(Writer::new(connection, options, file.clone())));
        let shared = Shared { writer, readers, head: watch::Sender::new(Position(0)), clock, file };
        let store = Self { shared: Arc::new(shared) };
        let mut transaction = SqliteTransaction::begin(&store.shared).await?;
        migrate::migrate(transaction.connection()?, store.shared.clock.now()).await?;
        transaction.commit().await?;
        Ok(store)
    }

    /// Examines the file, and reports what is unsafe or slow about it. Reads the whole file, so the time it takes grows
    /// with the log.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or [`StoreError::Unavailable`] if the file cannot be read. What is wrong with the file is a
    /// finding, not an error.
    pub async fn doctor(&self) -> Result<Report, StoreError> {
        let (mut report, file) = (Report::default(), &self.shared.file);
        if let Err(StoreError::Denied(moved)) = file.check() {
            report.danger(
                "file",
                moved.to_string(),
                "Stop the program; see docs/backup.md before it is started again.",
            );
            return Ok(report);
        }
        let mut transaction = SqliteTransaction::begin(&self.shared).await?;
        let writer = doctor::writer(transaction.connection()?, &mut report).await;
        transaction.rollback().await;
        writer?;
        doctor::wal(file, &mut report);
        doctor::file(&mut *self.reader().await?, file.path(), &self.shared.clock, &mut report).await?;
        Ok(report)
    }

    /// Waits until the operations that have begun are done, writes the write-ahead log into the file and closes all
    /// connections, so that the file alone is whole. After that, every operation of this store and its clones is
    /// [`Denied`](StoreError::Denied). While another process has the file open, the write-ahead log may stay; the last
    /// process to close the file writes it.
    ///
    /// # Errors
    /// [`Busy`](StoreError::Busy) if a transaction or a connection of [`database`](EventStore::database) is still in
    /// use after ten seconds.
    pub async fn close(&self) -> Result<(), StoreError> {
        let closed = async {
            let mut writer = self.shared.writer.lock().await;
            self.shared.readers.close().await;
            writer.close().await;
        };
        let timed_out = |_| StoreError::Busy("a transaction or a reader is open".into());
        timeout(CLOSE_TIMEOUT, closed).await.map_err(timed_out)
    }

    /// Returns a connection for reading. The error is [`StoreError::Denied`] if the file was moved or replaced.
    async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.shared.file.check()?;
        self.shared.readers.acquire().await.map_err(error::store)
    }

    /// Waits until another handle or process has recorded an event after this position, by reading the head.
    async fn poll_head(&self, after: Position) {
        let mut pause = Duration::from_millis(5);
        loop {
            sleep(pause).await;
            let Ok(mut reader) = self.reader().await else { continue };
            if read::head(&mut reader).await.is_ok_and(|head| head > after) {
                return;
            }
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }
}

/// The error for a database in memory, of which each connection would have one of its own.
fn in_memory() -> StoreError {
    Invalid::Url("SQLite keeps its log in a file; a store in memory is `memory:`".into()).into()
}

/// Turns the write-ahead log on, without which readers wait for the writer. The switch takes a lock that SQLite does
/// not wait for, so this retries for two seconds.
async fn write_ahead(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let mut attempts = 0;
    loop {
        match sqlx::query(include_str!("../sql/write_ahead.sql")).execute(&mut *connection).await {
            Err(error) if error::is_busy(&error) && attempts < 200 => attempts += 1,
            result => return result.map(drop).map_err(error::store),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

impl From<SqliteStore> for Arc<dyn EventStore> {
    fn from(store: SqliteStore) -> Self {
        Arc::new(store)
    }
}

#[async_trait]
impl EventStore for SqliteStore {
    async fn read(&self, read: Read) -> Result<Events, StoreError> {
        read.check()?;
        let limit = read.limit;
        let mut reader = self.reader().await?;
        let head = read::head(&mut reader).await?;
        let head = read.until.map_or(head, |until| until.min(head));
        let page = limit.map_or(PAGE, |limit| limit.min(PAGE));
        let page = Read { until: Some(head), limit: Some(page), ..read };
        // Read after the head, so that the type of every event up to the head is known.
        let (plan, asked) = read::Plan::new(&mut reader, &page.query).await?;
        let plan = Arc::new(plan);
        let first = plan.page(&mut reader, &page).await?;
        let store = self.clone();
        let next = move |read: Read| {
            let (store, plan) = (store.clone(), plan.clone());
            async move { plan.page(&mut *store.reader().await?, &read).await }
        };
        Ok(Events::paged(head, page, limit, first, next).asking(asked))
    }

    async fn append(&self, append: Append) -> Result<Written, StoreError> {
        let append = Checked::new(append)?;
        let mut transaction = SqliteTransaction::begin(&self.shared).await?;
        let written = transaction.record(append).await;
        match written {
            Ok(written) if !written.replayed => {
                transaction.commit().await?;
                Ok(written)
            }
            nothing_new => {
                transaction.rollback().await;
                nothing_new
            }
        }
    }

    async fn find(&self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        read::events_of_command(&mut *self.reader().await?, command).await
    }

    async fn recorded(&self, ids: Vec<Uuid>) -> Result<Vec<Recorded<Raw>>, StoreError> {
        read::events_by_ids(&mut *self.reader().await?, &ids).await
    }

    async fn streams(&self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        read::streams(&mut *self.reader().await?, category, after, limit).await
    }

    async fn count(&self, read: Read) -> Result<u64, StoreError> {
        read.check()?;
        let mut reader = self.reader().await?;
        let head = read::head(&mut reader).await?;
        read::count(&mut reader, &read, head).await
    }

    async fn retag(&self, events: Vec<NewTags>) -> Result<u64, StoreError> {
        events.iter().try_for_each(NewTags::check)?;
        let mut transaction = SqliteTransaction::begin(&self.shared).await?;
        let changed = retag::retag(transaction.connection()?, &events).await?;
        transaction.commit().await?;
        Ok(changed)
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError> {
        Ok(self.prefix_at(at).await?.position)
    }

    async fn prefix_at(&self, at: Timestamp) -> Result<Prefix, StoreError> {
        let now = self.shared.clock.now();
        let prefix = read::prefix_at(&mut *self.reader().await?, at).await?;
        if prefix.settled {
            return Ok(prefix);
        }
        // An open append may have been stamped at or before the instant, so this waits for its end.
        let waited = timeout(WRITER_TIMEOUT, SqliteTransaction::begin(&self.shared)).await;
        let busy = |_| StoreError::Busy("an append is open for too long".into());
        let mut transaction = waited.map_err(busy)??;
        let prefix = read::prefix_under_lock(transaction.connection()?, at, now).await;
        transaction.rollback().await;
        prefix
    }

    async fn identity(&self) -> Result<Identity, StoreError> {
        read::identity(&mut *self.reader().await?).await
    }

    async fn appended(&self, after: Position) {
        let mut head = self.shared.head.subscribe();
        let noted = pin!(head.wait_for(|head| *head > after));
        let polled = pin!(self.poll_head(after));
        let _ = timeout(Duration::from_secs(1), select(noted, polled)).await;
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        Ok(Box::new(SqliteTransaction::begin(&self.shared).await?))
    }

    async fn doctor(&self) -> Result<Report, StoreError> {
        self.doctor().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.close().await
    }

    async fn snapshot(&self, boundary: &str, kind: &str) -> Result<Option<StoredSnapshot>, StoreError> {
        snapshots::snapshot(&mut *self.reader().await?, boundary, kind).await
    }

    async fn keep_snapshot(&self, snapshot: StoredSnapshot, instead_of: Option<u64>) -> Result<bool, StoreError> {
        let mut transaction = SqliteTransaction::begin(&self.shared).await?;
        let kept = snapshots::keep(transaction.connection()?, snapshot, instead_of).await?;
        transaction.commit().await?;
        Ok(kept)
    }

    async fn snapshots(&self, kind: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        snapshots::snapshots(&mut *self.reader().await?, kind, limit).await
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    fn database(&self) -> &(dyn Any + Send + Sync) {
        &self.shared.readers
    }
}

#[async_trait]
impl Tables for SqliteStore {
    async fn create(&self, table: &Table) -> Result<(), StoreError> {
        let mut transaction = SqliteTransaction::begin(&self.shared).await?;
        tables::create(transaction.connection()?, table).await?;
        transaction.commit().await
    }

    async fn index(&self, table: &Table) -> Result<(), StoreError> {
        let mut transaction = SqliteTransaction::begin(&self.shared).await?;
        tables::index(transaction.connection()?, table).await?;
        transaction.commit().await
    }

    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        tables::rows(&mut *self.reader().await?, rows).await
    }

    async fn select(&self, select: Select) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        tables::select(&mut *self.reader().await?, select).await
    }

    async fn count_rows(&self, select: Select) -> Result<u64, StoreError> {
        tables::count(&mut *self.reader().await?, select).await
    }

    async fn shards(&self, projection: Option<&str>) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        tables::shards(&mut *self.reader().await?, projection).await
    }
}
