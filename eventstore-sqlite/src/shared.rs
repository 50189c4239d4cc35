//! What a store, its clones and its transactions have in common: above all the one connection that writes.

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

/// The driver's transactions: it counts those that a caller of the connection begins in this one, as savepoints.
type Manager = <Sqlite as Database>::TransactionManager;

/// How often to ask for the write lock of the file again, after the busy time-out.
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
    /// None where the last one was in a state that nothing is known of, and once the store is closed.
    connection: Option<SqliteConnection>,
    closed: bool,
    file: Arc<File>,
    /// Whether a transaction may be open on it.
    pub(crate) open: bool,
    ends: Arc<Ends>,
    /// How many transactions had ended when the open one was begun.
    begun: u64,
    /// Whether a caller has had the connection, and may have taken its hooks.
    pub(crate) lent: bool,
}

/// What SQLite tells of the ends of transactions on the connection that writes.
struct Ends {
    /// How many were rolled back: by the store, by a caller's statement, or by SQLite after an error.
    rolled_back: AtomicU64,
    /// What `rolled_back` must be for a commit to be let through; nothing can have the largest number. A COMMIT of a
    /// caller's, or a statement outside of any transaction, is rolled back instead.
    commits_at: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl Writer {
    /// `options` make no file: it is there.
    pub(crate) fn new(connection: SqliteConnection, options: SqliteConnectOptions, file: Arc<File>) -> Self {
        let ends = Ends { rolled_back: AtomicU64::new(0), commits_at: AtomicU64::new(NEVER) };
        let (connection, ends) = (Some(connection), Arc::new(ends));
        Self { options, connection, closed: false, file, open: false, ends, begun: 0, lent: true }
    }

    /// The connection, whatever is open on it.
    pub(crate) fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.connection.as_mut().ok_or_else(error::closed)
    }

    /// Whether the transaction that was begun is over: SQLite has rolled it back.
    pub(crate) fn has_ended(&self) -> bool {
        self.connection.is_none() || self.ends.rolled_back.load(Ordering::Acquire) != self.begun
    }

    pub(crate) async fn begin(&mut self) -> Result<(), StoreError> {
        self.file.check()?;
        if self.open {
            self.rollback().await;
        }
        self.open = true;
        let (mut attempt, mut again) = (0, true);
        loop {
            self.connect().await?;
            let begin = include_str!("../sql/begin.sql").into_sql_str();
            match Manager::begin(self.connection()?, Some(begin)).await {
                Ok(()) => break,
                Err(error) if error::busy(&error) && attempt < ATTEMPTS => {
                    attempt += 1;
                    // Other processes wait for the same file: a little apart, so that they do not meet again.
                    sleep(Duration::from_millis(u64::from(std::process::id() % 16 + attempt))).await;
                }
                // Its thread has ended, or a transaction is open that the driver knows nothing of.
                Err(error) if !error::busy(&error) && again => {
                    again = false;
                    self.abandon().await;
                }
                Err(error) => return Err(error::store(error)),
            }
        }
        self.begun = self.ends.rolled_back.load(Ordering::Acquire);
        self.file.note();
        Ok(())
    }

    /// A connection, and its hooks.
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

    /// Commits the transaction that was begun; fails if it is over.
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

    /// More than one, if a caller has begun another and forgotten it.
    async fn commit_all(&mut self) -> Result<(), StoreError> {
        let connection = self.connection()?;
        while Manager::get_transaction_depth(connection) > 0 {
            Manager::commit(connection).await.map_err(error::commit)?;
        }
        Ok(())
    }

    /// Leaves no transaction open.
    pub(crate) async fn rollback(&mut self) {
        self.ends.commits_at.store(NEVER, Ordering::Release);
        if let Some(connection) = &mut self.connection {
            // Of a COMMIT or ROLLBACK whose future was dropped before the answer, the driver keeps a mark, and passes over
            // the next rollback of this kind.
            Manager::start_rollback(connection);
            let mut rolled_back = rollback_all(connection).await;
            if rolled_back.is_err() && Manager::get_transaction_depth(connection) == 1 {
                // SQLite has rolled it back by itself, and the driver counts it as open: another one in its place can be
                // rolled back.
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

    /// Begins to roll back, without waiting for it.
    pub(crate) fn start_rollback(&mut self) {
        self.ends.commits_at.store(NEVER, Ordering::Release);
        if let Some(connection) = &mut self.connection {
            for _ in 0..Manager::get_transaction_depth(connection) {
                Manager::start_rollback(connection);
            }
        }
    }

    /// Closes the connection, whatever is open on it; another is opened when one is needed.
    async fn abandon(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.file.forget_wal();
            // An error says that its thread has ended already.
            let _ = sqlx::Connection::close(connection).await;
        }
    }

    /// Writes the write-ahead log into the file, and closes the connection for good.
    pub(crate) async fn close(&mut self) {
        self.closed = true;
        if self.open {
            self.rollback().await;
        }
        if let Some(connection) = &mut self.connection {
            // Another process that reads or writes keeps it from being emptied, and does it when it closes.
            let checkpoint = sqlx::query(include_str!("../sql/checkpoint.sql")).fetch_all(connection).await;
            if let Err(error) = checkpoint {
                tracing::debug!(%error, "the write-ahead log was not written into the file");
            }
        }
        self.abandon().await;
    }
}

/// Rolls back, with all that a caller has begun within.
async fn rollback_all(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    loop {
        Manager::rollback(connection).await?;
        if Manager::get_transaction_depth(connection) == 0 {
            return Ok(());
        }
    }
}

/// A program that ends without closing its store leaves everything in the file all the same: so a copy of the one file is
/// whole. In a thread of its own, for this may be in the middle of any executor.
impl Drop for Writer {
    fn drop(&mut self) {
        if self.connection.is_some() {
            thread::scope(|scope| {
                let close = thread::Builder::new().name("eventstore-sqlite-close".into());
                // Where no thread can be had, the next program that opens the file reads the write-ahead log.
                let _ = close.spawn_scoped(scope, || block_on(self.close()));
            });
        }
    }
}
