//! The database of a log: the pool of connections, the statements, and what this process knows of the server. All
//! clones and transactions of a store share it.

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

use crate::{connect::probe, head::Head, pooler::Pooler, sql::Sql, types::EventTypes};

/// How long a caller that waits for a connection of the pool waits between two probes of the server.
const PROBE_PAUSE: Duration = Duration::from_millis(250);

pub(crate) struct Db {
    pub(crate) pool: PgPool,
    pub(crate) pooler: Pooler,
    pub(crate) sql: Arc<Sql>,
    pub(crate) types: Arc<EventTypes>,
    pub(crate) head: Arc<Head>,
    pub(crate) odd_sessions: OddSessions,
    pub(crate) built: BuiltTables,
}

impl Db {
    /// Whether an append must begin a transaction explicitly: always behind a pooler that forgets statements, and for
    /// [a second](OddSessions::RECENT) after a session with unsuitable defaults was met.
    pub(crate) fn in_transactions(&self) -> bool {
        self.pooler == Pooler::Forgetful || self.odd_sessions.is_recent()
    }

    /// Returns a connection of the pool, and the server it leads to. While the server refuses connections, the pool
    /// would try again until its own time-out; this returns the I/O error of kind `ConnectionRefused` at once.
    pub(crate) async fn pooled(&self) -> Result<(PoolConnection<Postgres>, u64), sqlx::Error> {
        let pool = &self.pool;
        let refused = async {
            loop {
                sleep(PROBE_PAUSE / 10).await;
                // All connections are in use, or one is being opened.
                if pool.num_idle() == 0
                    && let Err(error) = probe(&pool.connect_options()).await
                    && error.kind() == io::ErrorKind::ConnectionRefused
                {
                    return error;
                }
                sleep(PROBE_PAUSE).await;
            }
        };
        match select(pin!(pool.acquire()), pin!(refused)).await {
            Either::Left((acquired, _)) => Ok((acquired?, self.head.server())),
            Either::Right((error, _)) => Err(error.into()),
        }
    }
}

/// The tables that existed when they were last read. A transaction reads any other table behind a savepoint.
#[derive(Default)]
pub(crate) struct BuiltTables(Mutex<HashSet<String>>);

impl BuiltTables {
    fn tables(&self) -> MutexGuard<'_, HashSet<String>> {
        // Nothing that can panic happens while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn contains(&self, table: &str) -> bool {
        self.tables().contains(table)
    }

    pub(crate) fn insert(&self, table: String) {
        self.tables().insert(table);
    }

    pub(crate) fn remove(&self, table: &str) {
        self.tables().remove(table);
    }
}

/// Remembers for a short time that a session had defaults that appends cannot use: read-only, or another isolation
/// level than READ COMMITTED. Meanwhile appends begin their transactions explicitly, which costs two more round trips.
pub(crate) struct OddSessions {
    begin: Instant,
    /// In milliseconds since `begin`.
    until: AtomicU64,
}

impl OddSessions {
    /// How long a session is remembered. After that, one append tries whether sessions have suitable defaults again.
    const RECENT: Duration = Duration::from_secs(1);

    pub(crate) fn new() -> Self {
        Self { begin: Instant::now(), until: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn note_session(&self) {
        self.until.store(self.now() + Self::RECENT.as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn is_recent(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until > 0 && self.now() < until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_was_just_opened_has_met_no_unsuitable_session() {
        let sessions = OddSessions::new();
        assert!(!sessions.is_recent());
        sessions.note_session();
        assert!(sessions.is_recent());
    }

    #[test]
    fn a_session_is_forgotten_after_a_while() {
        let begin = Instant::now().checked_sub(Duration::from_secs(60)).expect("the clock runs for a minute");
        let sessions = OddSessions { begin, until: AtomicU64::new(59_000) };
        assert!(!sessions.is_recent());
        sessions.note_session();
        assert!(sessions.is_recent());
    }
}
