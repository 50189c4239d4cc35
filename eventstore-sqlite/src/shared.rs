//! The state that a store, its clones and its transactions share, with the one connection that writes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use eventstore_core::{Position, StoreError, testing::Clock};
use futures::executor::block_on;
use sqlx::{ConnectOptions, Database, SqlSafeStr, Sqlite, SqliteConnection, SqlitePool, sqlite::SqliteConnectOptions};
use sqlx_core::transaction::TransactionManager;
use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};

use crate::{error, file::File};

/// The driver's transaction manager. It counts the transactions that a caller begins inside this one, as savepoints.
type Manager = <Sqlite as Database>::TransactionManager;

/// How often the write lock of the file is requested again after the busy time-out.
const ATTEMPTS: u32 = 4;

pub(crate) struct Shared {
    pub(crate) writer: Arc<Mutex<Writer>>,
    pub(crate) readers: SqlitePool,
    /// The last position known to be recorded.
    pub(crate) head: watch::Sender<Position>,
    pub(crate) clock: Clock,
    pub(crate) file: Arc<File>,
}

/// The one connection that writes.
pub(crate) struct Writer {
    options: SqliteConnectOptions,
    /// `None` after a connection in an unknown state was closed, and once the store is closed.
    connection: Option<SqliteConnection>,
    closed: bool,
    file: Arc<File>,
    /// Whether a transaction may be open on it.
    pub(crate) open: bool,
    ends: Arc<Ends>,
    /// How many transactions had ended when the open one was begun.
    begun: u64,
    /// Whether the connection was lent to a caller, which may have replaced its hooks.
    pub(crate) lent: bool,
}

/// Counts the ends of transactions on the connection that writes, by hooks of SQLite.
struct Ends {
    /// How many transactions were rolled back: by the store, by a statement of the caller, or by SQLite after an error.
    rolled_back: AtomicU64,
    /// The value of `rolled_back` at which a commit is allowed; [`NEVER`] allows none. A COMMIT of the caller, or a
    /// statement outside of any transaction, is rolled back instead.
    commits_at: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Writer {
    /// The file exists, so `options` must not create one.
    pub(crate) fn new(connection: SqliteConnection, options: SqliteConnectOptions, file: Arc<File>) -> Self {
        let ends = Ends { rolled_back: AtomicU64::new(0), commits_at: AtomicU64::new(NEVER) };
        let (connection, ends) = (Some(connection), Arc::new(ends));
        Self { options, connection, closed: false, file, open: false, ends, begun: 0, lent: true }
    }

    /// Returns the connection, whether or not a transaction is open on it.
    pub(crate) fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.connection.as_mut().ok_or_else(error::closed)
    }

    /// Whether SQLite has rolled back the transaction that was begun.
    pub(crate) fn has_ended(&self) -> bool {
        self.connection.is_none() || self.ends.rolled_back.load(Ordering::Acquire) != self.begun
    }

    /// Begins a transaction with the write lock of the file. The error is [`StoreError::Busy`] if another process holds
    /// the lock for about five seconds.
    pub(crate) async fn begin(&mut self) -> Result<(), StoreError> {
        self.file.check()?;
        if self.open {
            self.rollback().await;
        }
        self.open = true;
        let (mut attempt, mut may_reconnect) = (0, true);
        loop {
            self.connect().await?;
            let begin = include_str!("../sql/begin.sql").into_sql_str();
            match Manager::begin(self.connection()?, Some(begin)).await {
                Ok(()) => break,
                Err(error) if error::is_busy(&error) && attempt < ATTEMPTS => {
                    attempt += 1;
                    // Each process pauses for a different time, so that they do not collide again.
                    sleep(Duration::from_millis(u64::from(std::process::id() % 16 + attempt))).await;
                }
                // The thread of the connection has ended, or a transaction is open that the driver does not know.
                Err(error) if !error::is_busy(&error) && may_reconnect => {
                    may_reconnect = false;
                    self.abandon().await;
                }
                Err(error) => return Err(error::store(error)),
            }
        }
        self.begun = self.ends.rolled_back.load(Ordering::Acquire);
        self.file.note_ids();
        Ok(())
    }

    /// Opens the connection if there is none, and sets its hooks if a caller may have replaced them.
    async fn connect(&mut self) -> Result<(), StoreError> {
        if self.closed {
            return Err(error::closed());
        }
        if self.connection.is_none() {
            self.connection = Some(self.options.connect().await.map_err(error::store)?);
            self.lent = true;
        }
        if self.lent {
            let (commits, rollbacks) = (self.ends.clone(), self.ends.clone());
            let mut handle = self.connection()?.lock_handle().await.map_err(error::store)?;
            handle.set_commit_hook(move || {
                commits.commits_at.load(Ordering::Acquire) == commits.rolled_back.load(Ordering::Acquire)
            });
            handle.set_rollback_hook(move || _ = rollbacks.rolled_back.fetch_add(1, Ordering::AcqRel));
            drop(handle);
            self.lent = false;
        }
        Ok(())
    }

    /// Commits the transaction that was begun. If it is over, or the commit fails, no transaction is left open.
    pub(crate) async fn commit(&mut self) -> Result<(), StoreError> {
        self.file.check()?;
        self.ends.commits_at.store(self.begun, Ordering::Release);
        let committed = self.commit_all().await;
        self.ends.commits_at.store(NEVER, Ordering::Release);
        match committed {
            Ok(()) => self.open = false,
            Err(_) => self.rollback().await,
        }
        committed
    }

    /// Commits every open level: there is more than one if the caller has begun another without ending it.
    async fn commit_all(&mut self) -> Result<(), StoreError> {
        let connection = self.connection()?;
        while Manager::get_transaction_depth(connection) > 0 {
            Manager::commit(connection).await.map_err(error::commit)?;
        }
        Ok(())
    }

    /// Rolls back, so that no transaction is left open.
    pub(crate) async fn rollback(&mut self) {
        self.ends.commits_at.store(NEVER, Ordering::Release);
        if let Some(connection) = &mut self.connection {
            // After a COMMIT or ROLLBACK whose future was dropped, the driver skips one rollback of this kind; this is
            // it.
            Manager::start_rollback(connection);
            let mut rolled_back = rollback_all(connection).await;
            if rolled_back.is_err() && Manager::get_transaction_depth(connection) == 1 {
                // SQLite has rolled back by itself while the driver counts the transaction as open. Another one is
                // begun in its place, which can be rolled back.
                rolled_back = Manager::begin(connection, None).await;
                if rolled_back.is_ok() {
                    rolled_back = rollback_all(connection).await;
                }
            }
            if rolled_back.is_err() {
                self.abandon().await;
            }
        }
        self.open = false;
    }

    /// Starts to roll back without waiting for it.
    pub(crate) fn start_rollback(&mut self) {
        self.ends.commits_at.store(NEVER, Ordering::Release);
        if let Some(connection) = &mut self.connection {
            for _ in 0..Manager::get_transaction_depth(connection) {
                Manager::start_rollback(connection);
            }
        }
    }

    /// Closes the connection in any state. The next transaction opens another.
    async fn abandon(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.file.forget_wal();
            // An error means that its thread has ended already.
            let _ = sqlx::Connection::close(connection).await;
        }
    }

    /// Writes the write-ahead log into the file, and closes the connection for ever.
    pub(crate) async fn close(&mut self) {
        self.closed = true;
        if self.open {
            self.rollback().await;
        }
        if let Some(connection) = &mut self.connection {
            // Another process that has the file open may prevent this, and does it when it closes.
            let checkpoint = sqlx::query(include_str!("../sql/checkpoint.sql")).fetch_all(connection).await;
            if let Err(error) = checkpoint {
                tracing::debug!(%error, "the write-ahead log was not written into the file");
            }
        }
        self.abandon().await;
    }
}

/// Rolls back every open level, with the savepoints of the caller.
async fn rollback_all(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    loop {
        Manager::rollback(connection).await?;
        if Manager::get_transaction_depth(connection) == 0 {
            return Ok(());
        }
    }
}

/// Closes the connection of a program that ends without closing its store, so that a copy of the one file is whole. It
/// runs in a thread of its own, because the drop may happen inside an executor.
impl Drop for Writer {
    fn drop(&mut self) {
        if self.connection.is_some() {
            thread::scope(|scope| {
                let close = thread::Builder::new().name("eventstore-sqlite-close".into());
                // Without a thread, the next program that opens the file reads the write-ahead log.
                let _ = close.spawn_scoped(scope, || block_on(self.close()));
            });
        }
    }
}
