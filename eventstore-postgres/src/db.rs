//! The database of a log, as all who use it share it: the pool of connections to it, its statements, and what this process
//! knows of its server.

use std::{
    collections::HashSet,
    io,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::{Either, select};
use sqlx::{PgPool, Postgres, pool::PoolConnection};
use tokio::time::sleep;

use crate::{connect::reach, head::Head, pooler::Pooler, sql::Sql, types::EventTypes};

/// How often the server is asked whether it takes connections, while one of the pool is waited for.
const LOOK: Duration = Duration::from_millis(250);

pub(crate) struct Db {
    pub(crate) pool: PgPool,
    pub(crate) pooler: Pooler,
    pub(crate) sql: Arc<Sql>,
    pub(crate) types: Arc<EventTypes>,
    pub(crate) head: Arc<Head>,
    pub(crate) odd_sessions: OddSessions,
    pub(crate) built: Built,
}

impl Db {
    /// Whether an append begins a transaction by itself: where a pooler forgets statements, as everything does; and for a
    /// while after a session was seen whose defaults an append cannot use.
    pub(crate) fn in_transactions(&self) -> bool {
        self.pooler == Pooler::Forgetful || self.odd_sessions.lasts()
    }

    /// A connection of the pool, and which server it leads to. While the server refuses connections the pool would try again
    /// until its own patience ends; the caller is told at once.
    pub(crate) async fn pooled(&self) -> Result<(PoolConnection<Postgres>, u64), sqlx::Error> {
        let pool = &self.pool;
        let refused = async {
            loop {
                sleep(LOOK / 10).await;
                // All are in use, or one is being opened.
                if pool.num_idle() == 0
                    && let Err(error) = reach(&pool.connect_options()).await
                    && error.kind() == io::ErrorKind::ConnectionRefused
                {
                    return error;
                }
                sleep(LOOK).await;
            }
        };
        match select(pin!(pool.acquire()), pin!(refused)).await {
            Either::Left((acquired, _)) => Ok((acquired?, self.head.server())),
            Either::Right((error, _)) => Err(error.into()),
        }
    }
}

/// Tables that were there when they were last read: a transaction reads one of the others behind a savepoint.
#[derive(Default)]
pub(crate) struct Built(Mutex<HashSet<String>>);

impl Built {
    fn tables(&self) -> MutexGuard<'_, HashSet<String>> {
        // Nothing that can panic happens while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has(&self, table: &str) -> bool {
        self.tables().contains(table)
    }

    pub(crate) fn insert(&self, table: String) {
        self.tables().insert(table);
    }

    pub(crate) fn remove(&self, table: &str) {
        self.tables().remove(table);
    }
}

/// Whether a session was seen lately that begins transactions in a way that appends cannot use: read-only, or at another
/// isolation level. Then transactions say how they begin, which costs two round trips more.
pub(crate) struct OddSessions {
    begin: Instant,
    /// In milliseconds since `begin`.
    until: AtomicU64,
}

impl OddSessions {
    /// How long it is taken for granted. After that, one append tries whether sessions are as they should be again.
    const LAST: Duration = Duration::from_secs(1);

    pub(crate) fn new() -> Self {
        Self { begin: Instant::now(), until: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn seen(&self) {
        self.until.store(self.now() + Self::LAST.as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn lasts(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until > 0 && self.now() < until
    }
}
