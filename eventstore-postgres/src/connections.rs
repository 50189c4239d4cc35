//! Dedicated connections, which the store keeps for loads and appends. The pool pings the server for each connection
//! that is given back, which would cost every load and every append a round trip.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use sqlx::{Connection, PgConnection, Postgres, pool::PoolConnection};
use tokio::time::timeout;

use crate::{
    connect::{CONNECT_TIMEOUT, connect},
    db::Db,
    pooler::Pooler,
};

/// The idle dedicated connections of a store, and how many are open.
pub(crate) struct Connections {
    pub(crate) db: Arc<Db>,
    /// The connection that was used last is used next, since the caches of its session are warm.
    idle: Mutex<VecDeque<Idle>>,
    open: AtomicUsize,
    /// How many may be open.
    limit: usize,
}

struct Idle {
    connection: PgConnection,
    /// The server it leads to, as [`Head::server`](crate::head::Head::server) counts them.
    server: u64,
    since: Instant,
}

impl Connections {
    pub(crate) fn new(db: Arc<Db>, limit: usize) -> Self {
        Self { db, idle: Mutex::default(), open: AtomicUsize::new(0), limit }
    }

    /// Returns how many dedicated connections may be open besides those of the pool.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        // Nothing that can panic happens while it is held.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the idle connections. The pool must be closed before, so that no other connection is opened.
    pub(crate) async fn close(&self) {
        loop {
            let Some(idle) = self.idle().pop_back() else { return };
            // An error means that the connection is closed already.
            let _ = idle.connection.close().await;
        }
    }

    /// Counts one more open connection, and returns whether the limit allows it.
    fn reserve_slot(&self) -> bool {
        let more = |open| (open < self.limit).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// A connection for one operation. [`keep`](Self::keep) gives it back for the next one. Dropped without that it is
/// closed, since an answer of the server may still be on its way.
pub(crate) enum Dedicated {
    Own(PgConnection, OpenSlot),
    Pooled(PoolConnection<Postgres>, u64),
}

/// The place of an open connection in the count; it is freed when the connection is closed.
pub(crate) struct OpenSlot {
    connections: Arc<Connections>,
    counts: bool,
    /// Whether the connection serves neither an append nor a load.
    background: bool,
    server: u64,
}

impl Drop for OpenSlot {
    fn drop(&mut self) {
        if self.counts {
            self.connections.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Dedicated {
    /// Returns an idle dedicated connection, opens one if the limit allows it, or takes one of the pool.
    pub(crate) async fn acquire(connections: &Arc<Connections>) -> Result<Self, sqlx::Error> {
        Self::acquire_for(connections, false).await
    }

    /// Like [`acquire`](Self::acquire) for work besides appends and loads. It takes the connection that was used
    /// longest ago, and `keep` puts it back in that place, so that warm sessions stay with appends and loads.
    pub(crate) async fn acquire_for_background(connections: &Arc<Connections>) -> Result<Self, sqlx::Error> {
        Self::acquire_for(connections, true).await
    }

    async fn acquire_for(connections: &Arc<Connections>, background: bool) -> Result<Self, sqlx::Error> {
        let db = &connections.db;
        if db.pool.is_closed() {
            return Err(sqlx::Error::PoolClosed);
        }
        let slot = |server| OpenSlot { connections: connections.clone(), counts: true, background, server };
        loop {
            let idle = match background {
                true => connections.idle().pop_front(),
                false => connections.idle().pop_back(),
            };
            let Some(Idle { mut connection, server, since }) = idle else { break };
            let slot = slot(server);
            let is_alive = async {
                db.head.trusts_idle(since.elapsed())
                    || matches!(timeout(CONNECT_TIMEOUT, connection.ping()).await, Ok(Ok(())))
            };
            // A connection to a former server is closed.
            if server == db.head.server() && is_alive.await {
                return Ok(Self::Own(connection, slot));
            }
        }
        if !connections.reserve_slot() {
            let (connection, server) = db.pooled().await?;
            return Ok(Self::Pooled(connection, server));
        }
        let mut slot = slot(0);
        let mut connection = connect(&db.pool.connect_options()).await?;
        let setup = if db.pooler == Pooler::None { include_str!("../sql/own_session.sql") } else { "" };
        db.head.inspect(&mut connection, &db.types, &db.sql, setup).await?;
        slot.server = db.head.server();
        Ok(Self::Own(connection, slot))
    }

    /// Returns the server that the connection leads to.
    pub(crate) fn server(&self) -> u64 {
        match self {
            Self::Own(_, slot) => slot.server,
            Self::Pooled(_, server) => *server,
        }
    }

    /// Gives the connection back for the next operation. The operation must have ended, with or without an error.
    pub(crate) fn keep(self) {
        if let Self::Own(connection, mut slot) = self {
            if slot.connections.db.pool.is_closed() {
                return;
            }
            slot.counts = false;
            let kept = Idle { connection, server: slot.server, since: Instant::now() };
            let mut idle = slot.connections.idle();
            match slot.background {
                true => idle.push_front(kept),
                false => idle.push_back(kept),
            }
        }
    }

    /// Closes the connection, because its session has unsuitable defaults.
    pub(crate) fn close(self) {
        if let Self::Pooled(mut connection, _) = self {
            connection.close_on_drop();
        }
    }
}

impl Deref for Dedicated {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Own(connection, _) => connection,
            Self::Pooled(connection, _) => connection,
        }
    }
}

impl DerefMut for Dedicated {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(connection, _) => connection,
            Self::Pooled(connection, _) => connection,
        }
    }
}
