//! Dedicated connections, which the store keeps for its hot paths: the pool asks the server about each connection that is
//! given back, which costs a round trip for every load and every append.

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
    connect::{PATIENCE, connect},
    db::Db,
    pooler::Pooler,
};

/// Dedicated connections, and how many there are.
pub(crate) struct Connections {
    pub(crate) db: Arc<Db>,
    /// The one that was used last is used next: what its session has in its caches is worth much.
    idle: Mutex<VecDeque<Idle>>,
    open: AtomicUsize,
    /// How many there may be.
    limit: usize,
}

struct Idle {
    connection: PgConnection,
    /// Which server it leads to.
    server: u64,
    since: Instant,
}

impl Connections {
    pub(crate) fn new(db: Arc<Db>, limit: usize) -> Self {
        Self { db, idle: Mutex::default(), open: AtomicUsize::new(0), limit }
    }

    /// How many there may be besides the pool's.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        // Nothing that can panic happens while it is held.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes those that are idle. No other is opened once the pool is closed.
    pub(crate) async fn close(&self) {
        loop {
            let Some(idle) = self.idle().pop_back() else { return };
            // An error says that it is closed already.
            let _ = idle.connection.close().await;
        }
    }

    /// Whether another may be opened: then it counts.
    fn another(&self) -> bool {
        let more = |open| (open < self.limit).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// A connection for one operation, and for the next one once it is [kept](Self::keep). Dropped in the middle of an
/// operation it is closed: no caller gets one that waits for an answer.
pub(crate) enum Dedicated {
    Own(PgConnection, Counted),
    Pooled(PoolConnection<Postgres>, u64),
}

/// A connection that counts as open.
pub(crate) struct Counted {
    connections: Arc<Connections>,
    closes: bool,
    /// Whether it is used for what is no part of an append or a load.
    beside: bool,
    server: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.closes {
            self.connections.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Dedicated {
    /// A connection of the store's own, if one is idle or may be opened, else one of the pool.
    pub(crate) async fn free(connections: &Arc<Connections>) -> Result<Self, sqlx::Error> {
        Self::take(connections, false).await
    }

    /// The same for what is done beside appends and loads: the one that was used longest ago, and it stays that.
    pub(crate) async fn beside(connections: &Arc<Connections>) -> Result<Self, sqlx::Error> {
        Self::take(connections, true).await
    }

    async fn take(connections: &Arc<Connections>, beside: bool) -> Result<Self, sqlx::Error> {
        let db = &connections.db;
        if db.pool.is_closed() {
            return Err(sqlx::Error::PoolClosed);
        }
        let counted = |server| Counted { connections: connections.clone(), closes: true, beside, server };
        loop {
            let idle = match beside {
                true => connections.idle().pop_front(),
                false => connections.idle().pop_back(),
            };
            let Some(Idle { mut connection, server, since }) = idle else { break };
            let counted = counted(server);
            let lives = async {
                db.head.trusts(since.elapsed()) || matches!(timeout(PATIENCE, connection.ping()).await, Ok(Ok(())))
            };
            // What leads to another server than that of today is closed.
            if server == db.head.server() && lives.await {
                return Ok(Self::Own(connection, counted));
            }
        }
        if !connections.another() {
            let (connection, server) = db.pooled().await?;
            return Ok(Self::Pooled(connection, server));
        }
        let mut counted = counted(0);
        let mut connection = connect(&db.pool.connect_options()).await?;
        let setup = if db.pooler == Pooler::None { include_str!("../sql/own_session.sql") } else { "" };
        db.head.meet(&mut connection, &db.types, &db.sql, setup).await?;
        counted.server = db.head.server();
        Ok(Self::Own(connection, counted))
    }

    /// Which server it leads to.
    pub(crate) fn server(&self) -> u64 {
        match self {
            Self::Own(_, counted) => counted.server,
            Self::Pooled(_, server) => *server,
        }
    }

    /// For the next operation: this one is over, whatever came of it.
    pub(crate) fn keep(self) {
        if let Self::Own(connection, mut counted) = self {
            if counted.connections.db.pool.is_closed() {
                return;
            }
            counted.closes = false;
            let kept = Idle { connection, server: counted.server, since: Instant::now() };
            let mut idle = counted.connections.idle();
            match counted.beside {
                true => idle.push_front(kept),
                false => idle.push_back(kept),
            }
        }
    }

    /// Not for another operation: its session is not one to work with.
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
