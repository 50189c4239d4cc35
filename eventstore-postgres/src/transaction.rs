//! What is done together on one connection.

use std::{any::Any, error::Error, mem::take, ops::Deref, sync::Arc, time::Instant};

use async_trait::async_trait;
use eventstore_core::{
    Append, Blame, Changes, Checkpoint, Condition, Conflict, Expected, Invalid, Page, Position, Prefix, Raw, Read,
    Recorded, Rows, Shard, StoreError, StreamHead, StreamId, Timestamp, Transaction, Version, Written,
};
use futures::FutureExt;
use serde_json::value::RawValue;
use sqlx::{Connection, Database, PgConnection, Postgres, Row, SqlSafeStr, pool::PoolConnection};
use sqlx_core::transaction::TransactionManager;
use uuid::Uuid;

use crate::{
    append::{Checked, Failed},
    connect::PATIENCE,
    db::Db,
    error,
    notify::Notify,
    read, tables,
};

/// The driver's transactions: it counts those that a caller of the connection begins in this one, as savepoints.
type Manager = <Postgres as Database>::TransactionManager;

/// A transaction. Dropped before its end, its connection is closed: no other caller gets one that is not idle.
pub(crate) struct PgTransaction {
    connection: PoolConnection<Postgres>,
    /// Which server it runs on.
    server: u64,
    db: Arc<Db>,
    /// Told of what it has appended.
    notify: Arc<Notify>,
    over: bool,
    /// Why it can be committed no more.
    spoiled: Option<Spoiled>,
    /// Whether a caller has had the connection since it was last looked whether this is still the same transaction.
    lent: bool,
    /// Whether it keeps all others from appending.
    held: bool,
    /// Whether an operation has set time-outs for itself that a caller of the connection is not to have.
    tuned: bool,
    /// The last position it has appended.
    appended: Option<Position>,
    /// The table that was seen to have the columns the program knows. Once it was read, no other session can change them.
    fits: Option<(&'static str, u32, bool)>,
    /// Whether its commit need not wait for the flush.
    lazy: bool,
    /// Event types that are there once this is committed.
    new_types: Vec<(i32, String, String)>,
}

/// Why a transaction can be committed no more.
#[derive(Clone, Copy)]
enum Spoiled {
    /// An operation failed, or its future was dropped before its end: half of it may have been done.
    Unfinished,
    /// The connection broke. No COMMIT was sent, so the server rolls back.
    Lost,
    /// A statement of a caller of the connection has committed it or rolled it back.
    Ended,
}

impl From<Spoiled> for StoreError {
    fn from(spoiled: Spoiled) -> Self {
        match spoiled {
            Spoiled::Unfinished => Invalid::unfinished().into(),
            Spoiled::Lost => Self::Unavailable("the connection broke before the commit: nothing is recorded".into()),
            Spoiled::Ended => Self::Ended,
        }
    }
}

/// An operation that changes nothing. If it fails, the server has given up the transaction.
macro_rules! reads {
    ($transaction:ident, $operation:expr) => {{
        $transaction.ready().await?;
        let done = $operation.await;
        $transaction.note(&done);
        done
    }};
}

/// An operation that is done whole, or spoils the transaction: also if its future is dropped.
macro_rules! writes {
    ($transaction:ident, $operation:expr) => {{
        $transaction.ready().await?;
        $transaction.spoiled = Some(Spoiled::Unfinished);
        let done = $operation.await;
        $transaction.note(&done);
        done
    }};
}

impl PgTransaction {
    /// A transaction whose connection is not lent.
    pub(crate) async fn begin(db: &Arc<Db>, notify: &Arc<Notify>) -> Result<Self, StoreError> {
        Self::begin_with(db, notify, db.pooler.begin(false)).await
    }

    /// A transaction whose connection may be lent.
    pub(crate) async fn begin_marked(db: &Arc<Db>, notify: &Arc<Notify>) -> Result<Self, StoreError> {
        Self::begin_with(db, notify, db.pooler.begin(true)).await
    }

    async fn begin_with(db: &Arc<Db>, notify: &Arc<Notify>, statement: &'static str) -> Result<Self, StoreError> {
        let start = Instant::now();
        loop {
            let (connection, server) = db.pooled().await.map_err(error::store)?;
            // From here on, dropping this future closes the connection, begun or not.
            let mut transaction = Self {
                connection,
                server,
                db: db.clone(),
                notify: notify.clone(),
                over: false,
                spoiled: None,
                lent: false,
                held: false,
                tuned: false,
                appended: None,
                fits: None,
                lazy: false,
                new_types: vec![],
            };
            match Manager::begin(&mut transaction.connection, Some(statement.into_sql_str())).await {
                Ok(()) => return Ok(transaction),
                // It had broken unnoticed: nothing was begun. The others of before are asked whether they live.
                Err(error) if error::broken(&error) && start.elapsed() < PATIENCE => db.head.broke(),
                Err(error) if error::is(&error, &["0A000"]) => {
                    // Another server may have the name of the old one by now: the next connection finds out.
                    db.head.forget();
                    return Err(error::standby());
                }
                Err(error) => return Err(error::store(error)),
            }
        }
    }

    /// The connection, for the statements of the store.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Which server it runs on.
    pub(crate) fn server(&self) -> u64 {
        self.server
    }

    /// Fails if this can be committed no more; looks, if a caller has had the connection.
    async fn ready(&mut self) -> Result<(), StoreError> {
        self.settle();
        if self.spoiled.is_none() && self.lent {
            self.look().await?;
        }
        self.spoiled.map_or(Ok(()), |spoiled| Err(spoiled.into()))
    }

    /// Takes note of what an operation has come to.
    fn note<T>(&mut self, done: &Result<T, StoreError>) {
        self.spoiled = match done {
            Ok(_) => None,
            Err(error) if error.is_refusal() => None,
            Err(StoreError::Unavailable(_)) => Some(Spoiled::Lost),
            Err(_) => Some(Spoiled::Unfinished),
        };
    }

    /// Whether a statement of a caller is still under way: its future was dropped, and it is unknown how much of it was
    /// done. What waits to be sent is no such statement: the driver rolls back to the savepoint of a transaction that was
    /// dropped.
    fn settle(&mut self) {
        if !self.lent || self.spoiled.is_some() || self.connection.should_flush() {
            return;
        }
        match Connection::flush(&mut *self.connection).now_or_never() {
            Some(Ok(())) => {}
            Some(Err(error)) if error::broken(&error) => self.spoiled = Some(Spoiled::Lost),
            Some(Err(_)) | None => self.spoiled = Some(Spoiled::Unfinished),
        }
    }

    /// Looks whether this is still the transaction that was begun, and what is left of what it has appended.
    async fn look(&mut self) -> Result<(), StoreError> {
        let row = sqlx::query(self.db.sql.check()).fetch_one(&mut *self.connection).await;
        let seen = row.and_then(|row| Ok((row.try_get::<bool, _>(0)?, row.try_get::<i64, _>(1)?)));
        let (open, head) = match seen {
            Ok(seen) => seen,
            Err(error) => {
                // After an error of a caller's statement the server has given up the transaction.
                let failed = error::is(&error, &["25P02"]);
                let error = if failed { Invalid::unfinished().into() } else { error::store(error) };
                self.spoiled =
                    Some(if matches!(error, StoreError::Unavailable(_)) { Spoiled::Lost } else { Spoiled::Unfinished });
                return Err(error);
            }
        };
        if !open || Manager::get_transaction_depth(&self.connection) == 0 {
            self.spoiled = Some(Spoiled::Ended);
            return Err(StoreError::Ended);
        }
        if self.held {
            let held = sqlx::query_scalar(self.db.sql.holds()).fetch_one(&mut *self.connection).await;
            self.held = held.map_err(error::store)?;
        }
        self.lent = false;
        let head = read::position(head)?;
        self.appended = self.appended.map(|_| head);
        // They may have been rolled back to a savepoint.
        self.new_types.clear();
        Ok(())
    }

    pub(crate) async fn record(&mut self, append: &Checked) -> Result<Written, Failed> {
        self.ready().await?;
        self.spoiled = Some(Spoiled::Unfinished);
        self.tuned = true;
        let written = self.record_held(append).await;
        self.spoiled = match &written {
            Ok(_) => None,
            Err(Failed::Refused(error)) if error.is_refusal() => None,
            Err(Failed::Broken(error)) if error::broken(error) => Some(Spoiled::Lost),
            Err(_) => Some(Spoiled::Unfinished),
        };
        let written = written?;
        self.held |= !written.replayed;
        if !written.replayed {
            self.appended = Some(written.last);
        }
        Ok(written)
    }

    /// A statement that raises would end the transaction: what its condition asks of types and streams is seen to first, while
    /// all others are kept from appending.
    async fn record_held(&mut self, append: &Checked) -> Result<Written, Failed> {
        if append.asks_more() {
            self.hold().await?;
            if let Some(newer) = append.of_streams()
                && let Some(event) = self.read_page(newer).await?.events.pop()
                // What is in the way may be these events themselves.
                && read::of_ids(&mut self.connection, &self.db, &append.ids(), &mut self.new_types).await?.is_empty()
            {
                return Err(StoreError::from(Conflict::in_the_way(event.stream, event.version)).into());
            }
        }
        append.record(&mut self.connection, &self.db, &mut self.new_types, true, true).await
    }

    /// Keeps all others from appending, and learns of all event types there are.
    async fn hold(&mut self) -> Result<(), StoreError> {
        sqlx::query(self.db.sql.hold()).execute(&mut *self.connection).await.map_err(error::store)?;
        self.held = true;
        let types = sqlx::query_as(self.db.sql.types()).fetch_all(&mut *self.connection).await;
        self.new_types = types.map_err(error::store)?;
        Ok(())
    }

    async fn read_page(&mut self, read: Read) -> Result<Page, StoreError> {
        // What others know of the log may be newer than what this sees.
        read::page(&mut self.connection, &self.db, &read, Position(0), &mut self.new_types).await
    }

    async fn prefix_there(&mut self, at: Timestamp) -> Result<Prefix, StoreError> {
        read::prefix_at(&mut self.connection, &self.db, at).await.map_err(error::store)
    }

    async fn hold_unchanged(
        &mut self,
        unchanged: Vec<(StreamId, Version)>,
        condition: Option<Condition>,
    ) -> Result<(), StoreError> {
        self.hold().await?;
        if !unchanged.is_empty() {
            let (streams, versions): (Vec<_>, Vec<_>) =
                unchanged.iter().map(|(stream, version)| (stream.as_str(), read::signed(version.0))).unzip();
            let changed = sqlx::query_as(self.db.sql.changed()).bind(streams).bind(versions);
            let changed: Option<(String, i64)> =
                changed.fetch_optional(&mut *self.connection).await.map_err(error::store)?;
            if let Some((name, actual)) = changed {
                let expected = unchanged.into_iter().find(|(stream, _)| stream.as_str() == name);
                let (stream, version) = expected.ok_or_else(|| error::damaged("it names another stream"))?;
                let actual = Version(actual.unsigned_abs());
                return Err(Conflict::new(stream, Expected::Version(version), actual).into());
            }
        }
        let Some(Condition { query, after }) = condition else { return Ok(()) };
        let newer = Read { query, after, limit: Some(1), ..Read::default() };
        match self.read_page(newer).await?.events.pop() {
            Some(event) => Err(Conflict::in_the_way(event.stream, event.version).into()),
            None => Ok(()),
        }
    }

    /// Makes everything true at once. Before the COMMIT is sent, nothing is recorded, and the error says so.
    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        self.ready().await?;
        if self.lazy && self.appended.is_none() {
            let lazy = sqlx::raw_sql(include_str!("../sql/lazy.sql")).execute(&mut *self.connection).await;
            lazy.map_err(error::store)?;
        }
        // More than one, if a caller has begun another and forgotten it.
        while Manager::get_transaction_depth(&self.connection) > 0 {
            match Manager::commit(&mut self.connection).await {
                Ok(()) => {}
                // It is unknown whether the server got to the commit.
                Err(error) if error::lost(&error) => return Err(StoreError::Unknown(error.into())),
                Err(error) => return Err(error::store(error)),
            }
        }
        self.over = true;
        self.db.types.learn(take(&mut self.new_types));
        if let Some(last) = self.appended {
            self.notify.recorded(self.server, last);
        }
        Ok(())
    }

    pub(crate) async fn rollback(mut self) -> Result<(), StoreError> {
        self.settle();
        if self.spoiled.is_none() && self.lent {
            // What has failed is rolled back all the same.
            let _ = self.look().await;
        }
        if let Some(spoiled @ (Spoiled::Ended | Spoiled::Lost)) = self.spoiled {
            return Err(spoiled.into());
        }
        while Manager::get_transaction_depth(&self.connection) > 0 {
            Manager::rollback(&mut self.connection).await.map_err(error::store)?;
        }
        // A session in which a statement of a caller's has failed is closed: what the driver has prepared there may be what
        // fails.
        self.over = !(self.lent && self.spoiled.is_some());
        Ok(())
    }

    /// The rows of a table that may not be there: then the server would give up the transaction.
    /// Says whether the table has every column.
    async fn rows_if_built(&mut self, rows: Rows) -> Result<(Vec<(String, Box<RawValue>)>, bool), StoreError> {
        let connection = &mut *self.connection;
        let retry = match &rows {
            Rows::Keys { table, .. } | Rows::Where { table, .. } => Some((*table, rows.clone())),
            Rows::Whole { .. } => None,
        };
        sqlx::raw_sql(include_str!("../sql/savepoint.sql")).execute(&mut *connection).await.map_err(error::store)?;
        let found = tables::rows(connection, &self.db.sql, rows, &[]).await;
        let after = match found {
            Ok(_) => include_str!("../sql/release.sql"),
            Err(_) => include_str!("../sql/rollback_to.sql"),
        };
        sqlx::raw_sql(after).execute(&mut *connection).await.map_err(error::store)?;
        match (found, retry) {
            // It may lack a column that a row may be without.
            (Err(StoreError::Columns { .. } | StoreError::Schema(_)), Some((table, rows))) => {
                let lacking = tables::to_add(&mut *connection, &self.db.sql, &table).await?;
                let lacking = lacking.ok_or_else(|| StoreError::NotBuilt { table: table.to_string() })?;
                Ok((tables::rows(connection, &self.db.sql, rows, &lacking).await?, false))
            }
            (found, _) => Ok((found?, true)),
        }
    }
}

impl Deref for PgTransaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl Drop for PgTransaction {
    fn drop(&mut self) {
        if !self.over {
            self.connection.close_on_drop();
        }
    }
}

#[async_trait]
impl Transaction for PgTransaction {
    async fn lock(&mut self, shard: &Shard) -> Result<Option<Checkpoint>, StoreError> {
        self.tuned = true;
        reads!(self, tables::lock(&mut self.connection, &self.db.sql, shard))
    }

    async fn lock_projection(&mut self, projection: &str) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        self.tuned = true;
        reads!(self, tables::lock_projection(&mut self.connection, &self.db.sql, projection))
    }

    async fn put_shards(&mut self, projection: &str, shards: Vec<(Shard, Checkpoint)>) -> Result<(), StoreError> {
        writes!(self, tables::put_shards(&mut self.connection, &self.db.sql, projection, shards))
    }

    async fn append(&mut self, append: Append) -> Result<Written, StoreError> {
        let append = Checked::new(append, &self.db.types)?;
        let written = self.record(&append).await;
        if let Err(Failed::Broken(error)) = &written
            && error::is(error, &["ES002"])
        {
            // An event type this process knew is another one now.
            self.db.types.forget();
        }
        written.map_err(Failed::into_store)
    }

    async fn hold(
        &mut self,
        unchanged: Vec<(StreamId, Version)>,
        condition: Option<Condition>,
    ) -> Result<(), StoreError> {
        self.tuned = true;
        writes!(self, self.hold_unchanged(unchanged, condition))
    }

    async fn holds(&mut self) -> Result<bool, StoreError> {
        self.ready().await?;
        Ok(self.held)
    }

    async fn read(&mut self, read: Read) -> Result<Page, StoreError> {
        reads!(self, self.read_page(read))
    }

    async fn find(&mut self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        reads!(self, read::of_command(&mut self.connection, &self.db, command, &mut self.new_types))
    }

    async fn streams(&mut self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        reads!(self, read::streams(&mut self.connection, &self.db, category, after, limit))
    }

    async fn position_at(&mut self, at: Timestamp) -> Result<Position, StoreError> {
        Ok(self.prefix_at(at).await?.position)
    }

    async fn prefix_at(&mut self, at: Timestamp) -> Result<Prefix, StoreError> {
        reads!(self, self.prefix_there(at))
    }

    async fn rows(&mut self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        self.ready().await?;
        let table = match &rows {
            Rows::Keys { table, .. } | Rows::Where { table, .. } => table.to_string(),
            Rows::Whole { table, .. } => table.clone(),
        };
        let fits = match &rows {
            Rows::Keys { table, .. } | Rows::Where { table, .. } => Some((table.name, table.version, table.shadow)),
            Rows::Whole { .. } => None,
        };
        let built = self.db.built.has(&table);
        let found = match built {
            true => tables::rows(&mut self.connection, &self.db.sql, rows, &[]).await.map(|rows| (rows, true)),
            false => self.rows_if_built(rows).await,
        };
        match &found {
            Ok((_, true)) => {
                self.db.built.insert(table);
                self.fits = fits.or(self.fits);
            }
            Ok((_, false)) => {}
            Err(StoreError::NotBuilt { .. } | StoreError::Columns { .. } | StoreError::Schema(_)) if !built => {}
            Err(StoreError::Row { .. }) if !built => {}
            failed => {
                self.db.built.remove(&table);
                self.note(failed);
            }
        }
        Ok(found?.0)
    }

    async fn write(&mut self, changes: Changes) -> Result<(), StoreError> {
        self.ready().await?;
        let table = &changes.table;
        if self.fits != Some((table.name, table.version, table.shadow)) {
            reads!(self, tables::check(&mut self.connection, &self.db.sql, table))?;
        }
        writes!(self, tables::write(&mut self.connection, &self.db.sql, changes))
    }

    async fn swap(&mut self, table: &str) -> Result<(), StoreError> {
        self.tuned = true;
        writes!(self, tables::swap(&mut self.connection, &self.db.sql, table))
    }

    async fn publish(&mut self, name: &str, table: &str) -> Result<(), StoreError> {
        self.tuned = true;
        writes!(self, tables::publish(&mut self.connection, &self.db.sql, name, table))
    }

    async fn remove(&mut self, table: &str) -> Result<(), StoreError> {
        self.tuned = true;
        writes!(self, tables::remove(&mut self.connection, &self.db.sql, table))
    }

    async fn advance(&mut self, shard: &Shard, to: Position, event: Option<Uuid>) -> Result<(), StoreError> {
        writes!(self, tables::advance(&mut self.connection, &self.db.sql, shard, to, event))
    }

    fn lazy(&mut self) {
        self.lazy = true;
    }

    async fn lend(&mut self) -> Result<(), StoreError> {
        self.settle();
        if let Some(spoiled) = self.spoiled {
            return Err(spoiled.into());
        }
        if take(&mut self.tuned) {
            let restore = sqlx::query(include_str!("../sql/restore.sql")).execute(&mut *self.connection).await;
            let restored = restore.map(drop).map_err(error::store);
            self.note(&restored);
            restored?;
        }
        Ok(())
    }

    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        // The caller may change a table, and end the transaction.
        (self.fits, self.lent) = (None, true);
        Some(&mut *self.connection)
    }

    fn returned(&mut self) {
        self.settle();
    }

    async fn check(&mut self) -> Result<(), StoreError> {
        self.ready().await
    }

    fn blame(&self, error: &(dyn Error + 'static)) -> Option<Blame> {
        error::blame(error)
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Self::commit(*self).await
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        Self::rollback(*self).await
    }
}
