//! The last position of the log that this process knows, and the server it knows it of.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use eventstore_core::Position;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tokio::sync::watch;

use crate::{sql::Sql, types::EventTypes};

/// How long a connection may be idle before it is pinged. The ping notices a server that was stopped meanwhile before
/// an append is sent whose outcome would be unknown.
pub(crate) const ASSUMED_ALIVE: Duration = Duration::from_secs(1);

/// The last position known to be recorded on one server. A server that takes its place may lack the end of the log, so
/// a position known of the former server must not be read from.
pub(crate) struct Head {
    known: watch::Sender<KnownHead>,
    /// When a connection last broke.
    broken: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownHead {
    pub(crate) position: Position,
    /// The number of servers so far: it grows with each other server, and each time a log has lost its end.
    pub(crate) server: u64,
    since: Instant,
}

impl Head {
    pub(crate) fn new() -> Self {
        let known = KnownHead { position: Position(0), server: 0, since: Instant::now() };
        Self { known: watch::Sender::new(known), broken: Mutex::default() }
    }

    /// Returns the present server. A connection or transaction remembers the one it was opened on.
    pub(crate) fn server(&self) -> u64 {
        self.known.borrow().server
    }

    /// Returns the last known position of a server's log; 0 if it is not the present server.
    pub(crate) fn known(&self, server: u64) -> Position {
        let known = *self.known.borrow();
        if known.server == server { known.position } else { Position(0) }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<KnownHead> {
        self.known.subscribe()
    }

    /// Raises the known position, unless it is higher already or the server is a former one.
    pub(crate) fn raise(&self, server: u64, last: Position) {
        self.known.send_if_modified(|known| {
            let newer = known.server == server && last > known.position;
            if newer {
                known.position = last;
            }
            newer
        });
    }

    /// Compares the position `known` from before a statement with the `head` that the statement found. A lower head
    /// means that the log has lost its end: what was known is dropped, and every connection opened before is closed.
    pub(crate) fn check_end(&self, server: u64, known: Position, head: Position) {
        if head < known {
            self.known.send_if_modified(|now| {
                let lost = now.server == server;
                if lost {
                    *now = KnownHead { position: head, server: server + 1, since: Instant::now() };
                }
                lost
            });
        }
    }

    /// Notes that a connection broke. Others that were idle then are pinged before they are used.
    pub(crate) fn note_broken(&self) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection that was idle for so long may be used without a ping.
    pub(crate) fn trusts_idle(&self, idle: Duration) -> bool {
        let broken = *self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        idle < ASSUMED_ALIVE && broken.is_none_or(|broken| idle < broken.elapsed())
    }

    /// Whether a connection of this age leads to the present server.
    pub(crate) fn is_current(&self, age: Duration) -> bool {
        age <= self.known.borrow().since.elapsed()
    }

    /// Drops what is known of the present server, and lets every connection to it be closed, since it may not take
    /// writes.
    pub(crate) fn forget_server(&self) {
        self.known.send_modify(|known| {
            *known = KnownHead { position: Position(0), server: known.server + 1, since: Instant::now() };
        });
    }

    /// Finds out which server a new connection leads to and whether its log still has the known position, and sets the
    /// session up. All of it is one round trip, since every connection pays for it.
    pub(crate) async fn inspect(
        &self,
        connection: &mut PgConnection,
        types: &EventTypes,
        sql: &Sql,
        setup: &str,
    ) -> Result<(), sqlx::Error> {
        let known = *self.known.borrow();
        let start = include_str!("../sql/server_start.sql");
        // A crash can lose the end of the log without a new start of the postmaster.
        let reads_head = known.position > Position(0);
        let head = if reads_head { sql.head().0 } else { "".into() };
        let statements = [setup, &head, start].map(|statement| statement.trim_end().trim_end_matches(';'));
        let rows = sqlx::raw_sql(AssertSqlSafe(statements.join(";\n"))).fetch_all(connection).await?;
        let Some((start, before)) = rows.split_last() else { return Err(sqlx::Error::RowNotFound) };
        if types.forget_if_other_server(start.try_get(0)?) {
            self.forget_server();
        } else if reads_head && let Some(head) = before.last() {
            let head: i64 = head.try_get(0)?;
            self.check_end(known.server, known.position, Position(head.unsigned_abs()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a5_what_was_known_of_a_log_that_has_lost_its_end_is_not_known() {
        let head = Head::new();
        let first = head.server();
        head.raise(first, Position(7));
        head.raise(first, Position(5));
        assert_eq!(head.known(first), Position(7));
        head.check_end(first, Position(7), Position(9));
        assert_eq!(head.known(first), Position(7));
        // The log ends before the known position.
        head.check_end(first, Position(7), Position(5));
        let second = head.server();
        assert_eq!((head.known(first), head.known(second)), (Position(0), Position(5)));
        // A late answer of the former server changes nothing.
        head.raise(first, Position(8));
        head.check_end(first, Position(8), Position(1));
        assert_eq!((head.server(), head.known(second)), (second, Position(5)));
        assert!(!head.is_current(Duration::from_secs(3_600)));
        assert!(head.trusts_idle(Duration::ZERO) && !head.trusts_idle(ASSUMED_ALIVE));
        head.note_broken();
        assert!(!head.trusts_idle(Duration::from_millis(500)), "it was idle when another broke");
        head.forget_server();
        assert_eq!(head.known(head.server()), Position(0));
    }
}
