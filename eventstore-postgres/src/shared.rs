//! What a store, its clones and its transactions have in common.

use std::sync::{Arc, atomic::AtomicBool};

use eventstore_core::Position;
use sqlx::PgPool;
use tokio::sync::watch;

use crate::{lines::Lines, notify::Notify, session::Pooler, sql::Sql, types::EventTypes, writer::Writer};

pub(crate) struct Shared {
    pub(crate) pool: PgPool,
    pub(crate) pooler: Pooler,
    pub(crate) sql: Sql,
    pub(crate) types: Arc<EventTypes>,
    /// The last position known to be recorded.
    pub(crate) head: watch::Sender<Position>,
    pub(crate) lines: Lines,
    pub(crate) writer: Writer,
    pub(crate) notify: Notify,
    /// Whether sessions begin transactions in a way that appends cannot use, so that they must say how themselves.
    pub(crate) odd_sessions: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        pool: PgPool,
        pooler: Pooler,
        sql: Sql,
        types: Arc<EventTypes>,
        lines: Lines,
        writer: Writer,
        notify: Notify,
    ) -> Self {
        let head = watch::Sender::new(Position(0));
        // Where statements are forgotten, an append is in a transaction, like everything else.
        let odd_sessions = AtomicBool::new(pooler == Pooler::Forgetful);
        Self { pool, pooler, sql, types, head, lines, writer, notify, odd_sessions }
    }

    /// Takes note of what this store has recorded, and has others told.
    pub(crate) fn recorded(self: &Arc<Self>, last: Position) {
        self.heard(last);
        Notify::tell(self, last);
    }

    /// Takes note of how far the log goes.
    pub(crate) fn heard(&self, last: Position) {
        self.head.send_if_modified(|head| {
            let newer = last > *head;
            *head = last.max(*head);
            newer
        });
    }
}
