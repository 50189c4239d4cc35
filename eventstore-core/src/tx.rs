//! A transaction of the caller: business tables and events, both or neither.

use std::{
    any::{Any, type_name},
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use async_trait::async_trait;
use serde_json::value::RawValue;
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};
use uuid::Uuid;

use crate::{
    contract::{Append, Changes, EventStore, Events, Prefix, Read, StoredSnapshot, Tables, Transaction, Written},
    engine::shard::{Checkpoint, Shard},
    error::StoreError,
    event::{Raw, Recorded},
    identity::Identity,
    invalid::Invalid,
    reads::Reads,
    store::Store,
    stream::{Position, StreamHead},
    table::{Rows, Table},
    timestamp::Timestamp,
};

impl Store {
    /// Opens a transaction of the caller: its changes of the caller's tables and its appends are committed together, or
    /// not at all.
    ///
    /// ```no_run
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// use eventstore::sqlx::{self, SqliteConnection};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("sqlite://bank.db").await?;
    /// # let ann = Id::<Account>::from("ann");
    /// let tx = store.begin().await?;
    /// let insert = sqlx::query("INSERT INTO receipts (account, amount) VALUES ('ann', 100)");
    /// insert.execute(&mut *tx.connection::<SqliteConnection>().await?).await?;
    /// tx.execute(&ann, Deposit { amount: 100 }).by("teller-7").await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// States that [`load`](Self::load) reads in the transaction are checked at its first append, or else at its
    /// commit: if other events of such a state have been recorded since, it fails with a
    /// [`Conflict`](StoreError::Conflict), and nothing is recorded. The same holds for a command in it that had nothing
    /// to record. Events and rows that the caller reads otherwise ([`read`](Self::read), [`history`](Self::history),
    /// read models, its own SQL) are not checked, nor is a load of the past, which cannot change.
    ///
    /// Append last, and commit at once: from its first append to its end the transaction keeps all others from
    /// appending, which costs the log a round trip. If the caller then awaits an append outside of the open
    /// transaction, it waits for itself: the append fails with [`Busy`](StoreError::Busy) after ten seconds.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        let open = Arc::new(Mutex::new(Some(self.inner().begin().await?)));
        let reads = Arc::<Reads>::default();
        let inner = TxStore { open: open.clone(), outer: self.shared(), reads: reads.clone() };
        let store = self.over(Arc::new(inner), reads.clone());
        Ok(Tx { open, store, reads, outer: self.clone() })
    }
}

type Open = Arc<Mutex<Option<Box<dyn Transaction>>>>;

/// An open transaction. Derefs to a [`Store`] whose reads and appends happen in the transaction: its reads see its
/// appends. Dropping it rolls it back.
///
/// An operation that failed, or that was dropped before its end, may have done half of its work:
/// [`commit`](Self::commit) fails after it. A command that the rule refused and a conflict are no such failures: they
/// did nothing.
pub struct Tx {
    open: Open,
    store: Store,
    reads: Arc<Reads>,
    /// The store it is a transaction of.
    outer: Store,
}

impl Deref for Tx {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").finish_non_exhaustive()
    }
}

impl Tx {
    /// Returns the connection of the transaction, for the caller's own SQL: a `PgConnection`, a `SqliteConnection`.
    /// Drop it before the next use of the transaction, which waits for it. Fails with [`Invalid::Request`] if the
    /// connection is of another type, or if the transaction is over.
    ///
    /// sqlx's `begin` makes a savepoint on it, which may be committed and rolled back; rolling back to a savepoint
    /// removes the appends since. After a `COMMIT` or `ROLLBACK` of the transaction itself, its next use fails with
    /// [`Ended`](StoreError::Ended). After a statement that failed, or whose future was dropped before its end (by a
    /// time-out around it, say), [`commit`](Self::commit) fails; on SQLite a statement that failed has done nothing,
    /// and a statement that was dropped runs to its end.
    pub async fn connection<C: Any + Send>(&self) -> Result<TxConnection<'_, C>, StoreError> {
        let mut open = self.open.lock().await;
        open.as_mut().ok_or_else(over)?.lend().await?;
        let connection =
            MutexGuard::try_map(open, |open| (open.as_mut()?.connection()? as &mut dyn Any).downcast_mut());
        let other = || format!("this store's transactions run on no `{}`", type_name::<C>());
        let connection = connection.map_err(|_| Invalid::Request(other()))?;
        self.reads.lent();
        Ok(TxConnection { open: &self.open, connection: Some(connection) })
    }

    /// Commits all changes and appends, or nothing. Fails with [`Conflict`](StoreError::Conflict) if a state that was
    /// loaded in the transaction has changed since, and with [`Invalid::Request`] if an operation in it has failed or
    /// was dropped before its end.
    pub async fn commit(self) -> Result<(), StoreError> {
        let mut transaction = self.take().await?;
        if let Err(stale) = self.reads.hold(&mut *transaction).await {
            // Dropping it would roll it back too, a moment later.
            let _ = transaction.rollback().await;
            return Err(match stale {
                StoreError::Conflict(conflict) => self.outer.explained(conflict).await.into(),
                error => error,
            });
        }
        transaction.commit().await
    }

    /// Rolls everything back, at once; dropping the transaction does the same a moment later.
    pub async fn rollback(self) -> Result<(), StoreError> {
        self.take().await?.rollback().await
    }

    /// For an engine: returns the store it is a transaction of.
    #[doc(hidden)]
    pub fn outer(&self) -> &Store {
        &self.outer
    }

    /// For an engine: keeps others from appending until the end of the transaction, as an append does, and checks the
    /// states that were loaded before.
    #[doc(hidden)]
    pub async fn hold(&self) -> Result<(), StoreError> {
        let mut open = self.open.lock().await;
        let open = open.as_mut().ok_or_else(over)?;
        self.reads.hold(&mut **open).await?;
        // The default of `holds` says for a store whose transactions keep others from appending that this one does.
        if !open.holds().await? {
            open.hold(vec![], None).await?;
        }
        self.reads.held();
        Ok(())
    }

    /// For an engine: writes rows in the transaction.
    #[doc(hidden)]
    pub async fn write(&self, changes: Changes) -> Result<(), StoreError> {
        let mut open = self.open.lock().await;
        open.as_mut().ok_or_else(over)?.write(changes).await
    }

    async fn take(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.open.lock().await.take().ok_or_else(over)
    }
}

/// The connection of a transaction, until this is dropped.
pub struct TxConnection<'a, C> {
    open: &'a Mutex<Option<Box<dyn Transaction>>>,
    connection: Option<MappedMutexGuard<'a, C>>,
}

const LENT: &str = "there until it is dropped";

impl<C> Deref for TxConnection<'_, C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.connection.as_ref().expect(LENT)
    }
}

impl<C> DerefMut for TxConnection<'_, C> {
    fn deref_mut(&mut self) -> &mut C {
        self.connection.as_mut().expect(LENT)
    }
}

impl<C> fmt::Debug for TxConnection<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxConnection").finish_non_exhaustive()
    }
}

impl<C> Drop for TxConnection<'_, C> {
    fn drop(&mut self) {
        self.connection = None;
        // An operation that has the lock already checks by itself.
        if let Ok(mut open) = self.open.try_lock()
            && let Some(transaction) = open.as_mut()
        {
            transaction.returned();
        }
    }
}

fn over() -> StoreError {
    Invalid::Request("the transaction is over".into()).into()
}

/// A transaction as an [`EventStore`].
struct TxStore {
    open: Open,
    outer: Arc<dyn EventStore>,
    reads: Arc<Reads>,
}

/// One operation in the transaction.
macro_rules! within {
    ($store:expr, |$open:ident| $operation:expr) => {{
        let mut open = $store.open.lock().await;
        let $open = open.as_mut().ok_or_else(over)?;
        $operation.await
    }};
}

#[async_trait]
impl EventStore for TxStore {
    async fn read(&self, read: Read) -> Result<Events, StoreError> {
        const PAGE: usize = 1_000;
        read.check()?;
        let limit = read.limit;
        let page = Read { limit: Some(limit.map_or(PAGE, |limit| limit.min(PAGE))), ..read };
        let first = within!(self, |open| open.read(page.clone()))?;
        let head = page.until.map_or(first.head, |until| until.min(first.head));
        let open = self.open.clone();
        let next = move |read: Read| {
            let open = open.clone();
            async move {
                let mut open = open.lock().await;
                Ok(open.as_mut().ok_or_else(over)?.read(read).await?.events)
            }
        };
        Ok(Events::paged(head, page, limit, first.events, next).asking(first.asked))
    }

    async fn append(&self, append: Append) -> Result<Written, StoreError> {
        let mut open = self.open.lock().await;
        let open = open.as_mut().ok_or_else(over)?;
        self.reads.hold(&mut **open).await?;
        let written = open.append(append).await?;
        // From its first append on, no other transaction appends before its end.
        self.reads.held();
        Ok(written)
    }

    async fn find(&self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        within!(self, |open| open.find(command))
    }

    async fn recorded(&self, _: Vec<Uuid>) -> Result<Vec<Recorded<Raw>>, StoreError> {
        Err(Invalid::Request("events are not looked up by their ids, nor imported, in a transaction".into()).into())
    }

    async fn streams(&self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        within!(self, |open| open.streams(category, after, limit))
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError> {
        within!(self, |open| open.position_at(at))
    }

    async fn prefix_at(&self, at: Timestamp) -> Result<Prefix, StoreError> {
        within!(self, |open| open.prefix_at(at))
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        // Not from the store it is a transaction of: that would need another connection while this one is held.
        Ok(within!(self, |open| open.time())?.unwrap_or_else(|| self.now()))
    }

    async fn identity(&self) -> Result<Identity, StoreError> {
        self.outer.identity().await
    }

    async fn appended(&self, after: Position) {
        self.outer.appended(after).await;
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        Err(Invalid::Request("there is no transaction within a transaction".into()).into())
    }

    async fn close(&self) -> Result<(), StoreError> {
        Err(Invalid::Request("a transaction is committed or rolled back, and its store is closed".into()).into())
    }

    /// No snapshot is kept of a state that may yet be rolled back.
    async fn snapshot(&self, _: &str, _: &str) -> Result<Option<StoredSnapshot>, StoreError> {
        Ok(None)
    }

    async fn keep_snapshot(&self, _: StoredSnapshot, _: Option<u64>) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn snapshots(&self, _: &str, _: usize) -> Result<Vec<String>, StoreError> {
        Ok(vec![])
    }

    fn now(&self) -> Timestamp {
        self.outer.now()
    }

    fn database(&self) -> &(dyn Any + Send + Sync) {
        self.outer.database()
    }
}

#[async_trait]
impl Tables for TxStore {
    async fn create(&self, _: &Table) -> Result<(), StoreError> {
        Err(Invalid::Request("tables are made outside of transactions".into()).into())
    }

    async fn index(&self, table: &Table) -> Result<(), StoreError> {
        self.create(table).await
    }

    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        within!(self, |open| open.rows(rows))
    }

    async fn shards(&self, _: Option<&str>) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        Err(Invalid::Request("events that are not committed cannot be followed".into()).into())
    }
}
