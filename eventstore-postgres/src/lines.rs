//! Connections the store keeps for its hot paths: the pool asks the server about each that is given back, which would
//! cost a round trip for every load and every append.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use sqlx::{ConnectOptions, Connection, PgConnection, Postgres, pool::PoolConnection};

use crate::{session::Pooler, shared::Shared};

/// Connections of the store's own.
pub(crate) struct Lines {
    /// The one that was used last is used next: what its session has in its caches is worth much.
    idle: Mutex<VecDeque<PgConnection>>,
    open: AtomicUsize,
    /// How many there may be.
    limit: usize,
}

impl Lines {
    pub(crate) fn new(limit: usize) -> Self {
        Self { idle: Mutex::default(), open: AtomicUsize::new(0), limit }
    }

    /// How many there may be besides the pool's.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<PgConnection>> {
        // Nothing that can panic happens while it is held.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes those that are idle. No other is opened once the pool is closed.
    pub(crate) async fn close(&self) {
        loop {
            let Some(connection) = self.idle().pop_back() else { return };
            // An error says that it is closed already.
            let _ = connection.close().await;
        }
    }

    /// Whether another may be opened: then it counts.
    fn another(&self) -> bool {
        let more = |open| (open < self.limit).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// A connection for one operation, and for the next one once it is [kept](Self::keep). Dropped in the middle of an
/// operation it is closed: nobody gets one that waits for an answer.
pub(crate) enum Line {
    Own(PgConnection, Counted),
    Pooled(PoolConnection<Postgres>),
}

/// A connection that counts as open.
pub(crate) struct Counted {
    shared: Arc<Shared>,
    closes: bool,
    /// Whether it is used for what is no part of an append or a load.
    beside: bool,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.closes {
            self.shared.lines.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Line {
    /// A connection of the store's own, if one is idle or may be opened, else one of the pool.
    pub(crate) async fn free(shared: &Arc<Shared>) -> Result<Self, sqlx::Error> {
        Self::take(shared, false).await
    }

    /// The same for what is done beside appends and loads: the one that was used longest ago, and it stays that.
    pub(crate) async fn beside(shared: &Arc<Shared>) -> Result<Self, sqlx::Error> {
        Self::take(shared, true).await
    }

    async fn take(shared: &Arc<Shared>, beside: bool) -> Result<Self, sqlx::Error> {
        let counted = || Counted { shared: shared.clone(), closes: true, beside };
        if shared.pool.is_closed() {
            return Err(sqlx::Error::PoolClosed);
        }
        let idle = match beside {
            true => shared.lines.idle().pop_front(),
            false => shared.lines.idle().pop_back(),
        };
        if let Some(connection) = idle {
            return Ok(Self::Own(connection, counted()));
        }
        if !shared.lines.another() {
            return Ok(Self::Pooled(shared.pool.acquire().await?));
        }
        let counted = counted();
        let mut connection = shared.pool.connect_options().connect().await?;
        shared.types.meet(&mut connection).await?;
        if shared.pooler == Pooler::None {
            sqlx::raw_sql(include_str!("../sql/own_session.sql")).execute(&mut connection).await?;
        }
        Ok(Self::Own(connection, counted))
    }

    /// For the next operation: this one is over, whatever came of it.
    pub(crate) fn keep(self) {
        if let Self::Own(connection, mut counted) = self {
            if counted.shared.pool.is_closed() {
                return;
            }
            counted.closes = false;
            let mut idle = counted.shared.lines.idle();
            match counted.beside {
                true => idle.push_front(connection),
                false => idle.push_back(connection),
            }
        }
    }
}

impl Deref for Line {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Own(connection, _) => connection,
            Self::Pooled(connection) => connection,
        }
    }
}

impl DerefMut for Line {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(connection, _) => connection,
            Self::Pooled(connection) => connection,
        }
    }
}
