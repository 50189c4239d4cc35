//! A transaction of one's own: business tables and events, both or neither.

use std::{
    any::{Any, type_name},
    fmt,
    ops::Deref,
    sync::Arc,
};

use async_trait::async_trait;
use serde_json::value::RawValue;
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};
use uuid::Uuid;

use crate::{
    error::StoreError,
    event::{Raw, Recorded},
    handle::Store,
    invalid::Invalid,
    shard::{Checkpoint, Shard},
    store::{Append, EventStore, Events, Read, Rows, StoredSnapshot, Tables, Transaction, Written},
    stream::{Position, StreamHead},
    table::Table,
    timestamp::Timestamp,
};

impl Store {
    /// Opens a transaction of one's own: what it does to tables of one's own and what it appends are there together, or
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
    /// Append last, and commit at once: from its first append to its end the transaction keeps all others from
    /// appending, so it costs the log a round trip of everybody's time. An append outside of it, awaited inside of it,
    /// waits for itself: after ten seconds that is [`Busy`](StoreError::Busy).
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        let open = Arc::new(Mutex::new(Some(self.inner().begin().await?)));
        let store = self.over(Arc::new(TxStore { open: open.clone(), outer: self.shared() }));
        Ok(Tx { open, store })
    }
}

type Open = Arc<Mutex<Option<Box<dyn Transaction>>>>;

/// An open transaction. Derefs to a [`Store`] whose reads and appends happen in it: everything that is read sees what
/// was appended. Dropped, it is rolled back.
///
/// An operation that failed, or that was dropped before its end, may have done half of its work: after that,
/// [`commit`](Self::commit) refuses. A rule that said no or a conflict is no such failure: nothing was done.
pub struct Tx {
    open: Open,
    store: Store,
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
    /// The connection that runs it, for SQL of one's own: a `PgConnection`, a `SqliteConnection`. Given back before the
    /// next use of the transaction, which waits for it.
    pub async fn connection<C: Any + Send>(&self) -> Result<MappedMutexGuard<'_, C>, StoreError> {
        let connection = MutexGuard::try_map(self.open.lock().await, |open| {
            (open.as_mut()?.connection()? as &mut dyn Any).downcast_mut()
        });
        let other = || format!("this store's transactions run on no `{}`", type_name::<C>());
        connection.map_err(|_| Invalid::Request(other()).into())
    }

    /// Makes everything true at once.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.take().await?.commit().await
    }

    /// Forgets everything, at once; to drop it does the same a moment later.
    pub async fn rollback(self) -> Result<(), StoreError> {
        self.take().await?.rollback().await
    }

    async fn take(self) -> Result<Box<dyn Transaction>, StoreError> {
        self.open.lock().await.take().ok_or_else(over)
    }
}

fn over() -> StoreError {
    Invalid::Request("the transaction is over".into()).into()
}

/// What a transaction is to those who take it for a store.
struct TxStore {
    open: Open,
    outer: Arc<dyn EventStore>,
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
        Ok(Events::paged(head, page, limit, first.events, next))
    }

    async fn append(&self, append: Append) -> Result<Written, StoreError> {
        within!(self, |open| open.append(append))
    }

    async fn find(&self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        within!(self, |open| open.find(command))
    }

    async fn recorded(&self, _: Vec<Uuid>) -> Result<Vec<Recorded<Raw>>, StoreError> {
        Err(Invalid::Request("an import has transactions of its own".into()).into())
    }

    async fn streams(&self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        within!(self, |open| open.streams(category, after, limit))
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError> {
        within!(self, |open| open.position_at(at))
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

    /// A snapshot of what may yet be rolled back is kept by nobody.
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
        Err(Invalid::Request("nobody follows what is not committed".into()).into())
    }
}
