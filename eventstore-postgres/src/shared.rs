//! What a store, its clones and its transactions have in common.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventstore_core::Position;
use sqlx::PgPool;

use crate::{head::Head, lines::Lines, notify::Notify, session::Pooler, sql::Sql, types::EventTypes, writer::Writer};

pub(crate) struct Shared {
    pub(crate) pool: PgPool,
    pub(crate) pooler: Pooler,
    pub(crate) sql: Arc<Sql>,
    pub(crate) types: Arc<EventTypes>,
    pub(crate) head: Arc<Head>,
    pub(crate) lines: Lines,
    pub(crate) writer: Writer,
    pub(crate) notify: Notify,
    pub(crate) odd_sessions: OddSessions,
    pub(crate) built: Built,
}

impl Shared {
    /// Takes note of what this store has recorded on a server, and has others told.
    pub(crate) fn recorded(self: &Arc<Self>, server: u64, last: Position) {
        self.head.heard(server, last);
        Notify::tell(self, server, last);
    }

    /// Whether an append begins a transaction by itself: where a pooler forgets statements, as everything does; and for a
    /// while after a session was seen whose defaults an append cannot use.
    pub(crate) fn in_transactions(&self) -> bool {
        self.pooler == Pooler::Forgetful || self.odd_sessions.lasts()
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
