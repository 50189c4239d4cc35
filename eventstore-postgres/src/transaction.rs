//! A transaction: operations that commit together on one connection.

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
    append::{AppendError, Checked},
    connect::CONNECT_TIMEOUT,
    db::Db,
    error,
    notify::Notify,
    read, tables,
};

/// The driver's transaction manager. It counts the transactions that a caller begins inside this one, as savepoints.
type Manager = <Postgres as Database>::TransactionManager;

/// A transaction. If it is dropped before its end, its connection is closed, so that no other caller gets one in the
/// middle of a transaction.
pub(crate) struct PgTransaction {
    connection: PoolConnection<Postgres>,
    /// The server it runs on.
    server: u64,
    db: Arc<Db>,
    /// Notifies readers of what the transaction has appended, once it commits.
    notify: Arc<Notify>,
    over: bool,
    /// Why it cannot be committed any more.
    spoiled: Option<Spoiled>,
    /// Whether a caller has had the connection since [`check_open`](Self::check_open) last ran.
    lent: bool,
    /// Whether it has the append lock.
    held: bool,
    /// Whether an operation has set time-outs that a caller of the connection must not inherit.
    tuned: bool,
    /// The last position it has appended.
    appended: Option<Position>,
    /// The table whose columns were checked. A table that this transaction has read cannot be altered by another
    /// session.
    fits: Option<(&'static str, u32, bool)>,
    /// Whether its commit may skip the wait for the disk.
    lazy: bool,
    /// Event types that exist once this commits.
    new_types: Vec<(i32, String, String)>,
}

/// Why a transaction cannot be committed any more.
#[derive(Clone, Copy)]
enum Spoiled {
    /// An operation failed, or its future was dropped: half of it may be in the transaction.
    Unfinished,
    /// The connection broke before a COMMIT was sent, so the server rolls back.
    Lost,
    /// A statement of the caller has committed it or rolled it back.
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

/// Runs an operation that changes nothing. If it fails, the server has aborted the transaction.
macro_rules! reads {
    ($transaction:ident, $operation:expr) => {{
        $transaction.check_usable().await?;
        let done = $operation.await;
        $transaction.note_outcome(&done);
        done
    }};
}

/// Runs an operation that either completes or spoils the transaction, also if its future is dropped.
macro_rules! writes {
    ($transaction:ident, $operation:expr) => {{
        $transaction.check_usable().await?;
        $transaction.spoiled = Some(Spoiled::Unfinished);
        let done = $operation.await;
        $transaction.note_outcome(&done);
        done
    }};
}

impl PgTransaction {
    /// Begins a transaction whose connection is not lent.
    pub(crate) async fn begin(db: &Arc<Db>, notify: &Arc<Notify>) -> Result<Self, StoreError> {
        Self::begin_with(db, notify, db.pooler.begin(false)).await
    }

    /// Begins a transaction whose connection may be lent.
    pub(crate) async fn begin_marked(db: &Arc<Db>, notify: &Arc<Notify>) -> Result<Self, StoreError> {
        Self::begin_with(db, notify, db.pooler.begin(true)).await
    }

    async fn begin_with(db: &Arc<Db>, notify: &Arc<Notify>, statement: &'static str) -> Result<Self, StoreError> {
        let start = Instant::now();
        loop {
            let (connection, server) = db.pooled().await.map_err(error::store)?;
            // From here on, dropping this future closes the connection, whether or not the transaction has begun.
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
                // The connection had broken unnoticed, so nothing was begun. The idle ones are pinged from now on.
                Err(error) if error::is_broken(&error) && start.elapsed() < CONNECT_TIMEOUT => db.head.note_broken(),
                Err(error) if error::has_code(&error, &["0A000"]) => {
                    // Another server may have the name by now: the next connection finds out.
                    db.head.forget_server();
                    return Err(error::standby());
                }
                Err(error) => return Err(error::store(error)),
            }
        }
    }

    /// Returns the connection, for statements of the store.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Returns the server it runs on.
    pub(crate) fn server(&self) -> u64 {
        self.server
    }

    /// Fails if the transaction cannot be committed any more. Checks that with the server if the connection was lent.
    async fn check_usable(&mut self) -> Result<(), StoreError> {
        self.check_pending();
        if self.spoiled.is_none() && self.lent {
            self.check_open().await?;
        }
        self.spoiled.map_or(Ok(()), |spoiled| Err(spoiled.into()))
    }

    /// Notes whether the result of an operation spoils the transaction.
    fn note_outcome<T>(&mut self, done: &Result<T, StoreError>) {
        self.spoiled = match done {
            Ok(_) => None,
            Err(error) if error.is_refusal() => None,
            Err(StoreError::Unavailable(_)) => Some(Spoiled::Lost),
            Err(_) => Some(Spoiled::Unfinished),
        };
    }

    /// Spoils the transaction if a statement of the caller is pending: its future was dropped, so it is unknown how
    /// much of it was done. Unsent bytes are no such statement: they are the driver's rollback to the savepoint of a
    /// transaction that the caller dropped.
    fn check_pending(&mut self) {
        if !self.lent || self.spoiled.is_some() || self.connection.should_flush() {
            return;
        }
        match Connection::flush(&mut *self.connection).now_or_never() {
            Some(Ok(())) => {}
            Some(Err(error)) if error::is_broken(&error) => self.spoiled = Some(Spoiled::Lost),
            Some(Err(_)) | None => self.spoiled = Some(Spoiled::Unfinished),
        }
    }

    /// Checks with the server that this is still the transaction that was begun, and what is left of its appends: the
    /// caller may have rolled back to a savepoint.
    async fn check_open(&mut self) -> Result<(), StoreError> {
        let row = sqlx::query(self.db.sql.check()).fetch_one(&mut *self.connection).await;
        let seen = row.and_then(|row| Ok((row.try_get::<bool, _>(0)?, row.try_get::<i64, _>(1)?)));
        let (open, head) = match seen {
            Ok(seen) => seen,
            Err(error) => {
                // An error of a statement of the caller has aborted the transaction.
                let failed = error::has_code(&error, &["25P02"]);
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
        // They may have been rolled back.
        self.new_types.clear();
        Ok(())
    }

    /// Records an append. A refusal leaves the transaction as it was; any other error spoils it.
    pub(crate) async fn record(&mut self, append: &Checked) -> Result<Written, AppendError> {
        self.check_usable().await?;
        self.spoiled = Some(Spoiled::Unfinished);
        self.tuned = true;
        let written = self.record_with_lock(append).await;
        self.spoiled = match &written {
            Ok(_) => None,
            Err(AppendError::Refused(error)) if error.is_refusal() => None,
            Err(AppendError::Broken(error)) if error::is_broken(error) => Some(Spoiled::Lost),
            Err(_) => Some(Spoiled::Unfinished),
        };
        let written = written?;
        self.held |= !written.replayed;
        if !written.replayed {
            self.appended = Some(written.last);
        }
        Ok(written)
    }

    /// Records an append. What the condition says of event types and streams is checked first, under the append lock,
    /// because a statement that raises would abort the transaction.
    async fn record_with_lock(&mut self, append: &Checked) -> Result<Written, AppendError> {
        if append.needs_hold() {
            self.hold().await?;
            if let Some(newer) = append.stream_condition()
                && let Some(event) = self.read_page(newer).await?.events.pop()
                // The event in the stream may be one of this append, recorded before.
                && read::events_by_ids(&mut self.connection, &self.db, &append.ids(), &mut self.new_types).await?.is_empty()
            {
                return Err(StoreError::from(Conflict::in_the_way(event.stream, event.version)).into());
            }
        }
        append.record(&mut self.connection, &self.db, &mut self.new_types, true, true).await
    }

    /// Takes the append lock, and reads the list of event types.
    async fn hold(&mut self) -> Result<(), StoreError> {
        sqlx::query(self.db.sql.hold()).execute(&mut *self.connection).await.map_err(error::store)?;
        self.held = true;
        let types = sqlx::query_as(self.db.sql.types()).fetch_all(&mut *self.connection).await;
        self.new_types = types.map_err(error::store)?;
        Ok(())
    }

    async fn read_page(&mut self, read: Read) -> Result<Page, StoreError> {
        // Without the head that this process knows: it may be higher than the one this transaction sees.
        read::page(&mut self.connection, &self.db, &read, Position(0), &mut self.new_types).await
    }

    async fn read_prefix(&mut self, at: Timestamp) -> Result<Prefix, StoreError> {
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

    /// Commits. An error before the COMMIT is sent says that nothing is recorded. A connection that breaks during the
    /// COMMIT is [`StoreError::Unknown`].
    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        self.check_usable().await?;
        if self.lazy && self.appended.is_none() {
            let lazy = sqlx::raw_sql(include_str!("../sql/lazy.sql")).execute(&mut *self.connection).await;
            lazy.map_err(error::store)?;
        }
        // There is more than one if the caller has begun another without ending it.
        while Manager::get_transaction_depth(&self.connection) > 0 {
            match Manager::commit(&mut self.connection).await {
                Ok(()) => {}
                // It is unknown whether the server has committed.
                Err(error) if error::is_lost(&error) => return Err(StoreError::Unknown(error.into())),
                Err(error) => return Err(error::store(error)),
            }
        }
        self.over = true;
        self.db.types.learn(take(&mut self.new_types));
        if let Some(last) = self.appended {
            self.notify.note_recorded(self.server, last);
        }
        Ok(())
    }

    pub(crate) async fn rollback(mut self) -> Result<(), StoreError> {
        self.check_pending();
        if self.spoiled.is_none() && self.lent {
            // A failed transaction is rolled back as well.
            let _ = self.check_open().await;
        }
        if let Some(spoiled @ (Spoiled::Ended | Spoiled::Lost)) = self.spoiled {
            return Err(spoiled.into());
        }
        while Manager::get_transaction_depth(&self.connection) > 0 {
            Manager::rollback(&mut self.connection).await.map_err(error::store)?;
        }
        // A session in which a statement of the caller failed is closed, because a statement that the driver has
        // prepared there may be the reason.
        self.over = !(self.lent && self.spoiled.is_some());
        Ok(())
    }

    /// Reads rows of a table that may not exist, behind a savepoint, since the error would abort the transaction.
    /// Returns whether the table has every column as well.
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
            // The table may lack optional columns.
            (Err(StoreError::Columns { .. } | StoreError::Schema(_)), Some((table, rows))) => {
                let lacking = tables::missing_columns(&mut *connection, &self.db.sql, &table).await?;
                let lacking = lacking.ok_or_else(|| StoreError::NotBuilt { table: table.to_string() })?;
                let found = tables::rows(connection, &self.db.sql, rows, &lacking).await;
                let changed = || format!("the columns of `{table}` were changed meanwhile");
                // The transaction cannot go on, and another one can.
                let found = found.map_err(|error| match error {
                    StoreError::Columns { .. } | StoreError::Schema(_) => StoreError::Busy(changed().into()),
                    error => error,
                });
                Ok((found?, false))
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
        if let Err(AppendError::Broken(error)) = &written
            && error::has_code(error, &["ES002"])
        {
            // The key of an event type has another meaning now, as after a restore.
            self.db.types.forget();
        }
        written.map_err(AppendError::into_store)
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
        self.check_usable().await?;
        Ok(self.held)
    }

    async fn read(&mut self, read: Read) -> Result<Page, StoreError> {
        reads!(self, self.read_page(read))
    }

    async fn find(&mut self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        reads!(self, read::events_of_command(&mut self.connection, &self.db, command, &mut self.new_types))
    }

    async fn streams(&mut self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        reads!(self, read::streams(&mut self.connection, &self.db, category, after, limit))
    }

    async fn position_at(&mut self, at: Timestamp) -> Result<Position, StoreError> {
        Ok(self.prefix_at(at).await?.position)
    }

    async fn time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        reads!(self, read::time(&mut self.connection, &self.db)).map(Some)
    }

    async fn prefix_at(&mut self, at: Timestamp) -> Result<Prefix, StoreError> {
        reads!(self, self.read_prefix(at))
    }

    async fn rows(&mut self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        self.check_usable().await?;
        let table = match &rows {
            Rows::Keys { table, .. } | Rows::Where { table, .. } => table.to_string(),
            Rows::Whole { table, .. } => table.clone(),
        };
        let fits = match &rows {
            Rows::Keys { table, .. } | Rows::Where { table, .. } => Some((table.name, table.version, table.shadow)),
            Rows::Whole { .. } => None,
        };
        let built = self.db.built.contains(&table);
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
                self.note_outcome(failed);
            }
        }
        Ok(found?.0)
    }

    async fn write(&mut self, changes: Changes) -> Result<(), StoreError> {
        self.check_usable().await?;
        let table = &changes.table;
        if self.fits != Some((table.name, table.version, table.shadow)) {
            reads!(self, tables::check_table(&mut self.connection, &self.db.sql, table))?;
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
        self.check_pending();
        if let Some(spoiled) = self.spoiled {
            return Err(spoiled.into());
        }
        if take(&mut self.tuned) {
            let restore = sqlx::query(include_str!("../sql/restore.sql")).execute(&mut *self.connection).await;
            let restored = restore.map(drop).map_err(error::store);
            self.note_outcome(&restored);
            restored?;
        }
        Ok(())
    }

    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        // The caller may alter a table, and may end the transaction.
        (self.fits, self.lent) = (None, true);
        Some(&mut *self.connection)
    }

    fn returned(&mut self) {
        self.check_pending();
    }

    async fn check(&mut self) -> Result<(), StoreError> {
        self.check_usable().await
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
