//! How far the log goes, as this process knows, and which server it knows that of.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use eventstore_core::Position;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tokio::sync::watch;

use crate::{sql::Sql, types::EventTypes};

/// How long a connection may be idle before it is asked whether it still lives: a server that was stopped meanwhile is
/// noticed before anything is sent that may or may not be recorded.
pub(crate) const ASSUMED_ALIVE: Duration = Duration::from_secs(1);

/// The last position known to be recorded. It is known of one server: what has taken its place may lack the end of the
/// log, and what was known of the old one is no place to read from.
pub(crate) struct Head {
    known: watch::Sender<Known>,
    /// When a connection was last seen to be broken.
    broken: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) position: Position,
    /// How often another server was met, or a log that had lost its end.
    pub(crate) server: u64,
    since: Instant,
}

impl Head {
    pub(crate) fn new() -> Self {
        let known = Known { position: Position(0), server: 0, since: Instant::now() };
        Self { known: watch::Sender::new(known), broken: Mutex::default() }
    }

    /// The server of today. A connection or transaction keeps it from the moment it is given out.
    pub(crate) fn server(&self) -> u64 {
        self.known.borrow().server
    }

    /// Up to where the log of a server is known to go; 0 if that is not the server of today.
    pub(crate) fn known(&self, server: u64) -> Position {
        let known = *self.known.borrow();
        if known.server == server { known.position } else { Position(0) }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    /// Takes note of how far the log of a server goes.
    pub(crate) fn heard(&self, server: u64, last: Position) {
        self.known.send_if_modified(|known| {
            let newer = known.server == server && last > known.position;
            if newer {
                known.position = last;
            }
            newer
        });
    }

    /// A statement that was begun when the log was known to go up to `known` has seen that it ends at `head`. If that is
    /// earlier, the log has lost its end.
    pub(crate) fn seen(&self, server: u64, known: Position, head: Position) {
        if head < known {
            self.known.send_if_modified(|now| {
                let lost = now.server == server;
                if lost {
                    *now = Known { position: head, server: server + 1, since: Instant::now() };
                }
                lost
            });
        }
    }

    /// A connection was seen to be broken: others may be, too.
    pub(crate) fn broke(&self) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection that has been idle for so long is used without a question whether it still lives.
    pub(crate) fn trusts(&self, idle: Duration) -> bool {
        let broken = *self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        idle < ASSUMED_ALIVE && broken.is_none_or(|broken| idle < broken.elapsed())
    }

    /// Whether a connection of this age leads to the server of today.
    pub(crate) fn is_current(&self, age: Duration) -> bool {
        age <= self.known.borrow().since.elapsed()
    }

    /// Forgets what is known of the server, and has every connection to it closed: it cannot write any more.
    pub(crate) fn forget(&self) {
        self.known.send_modify(|known| {
            *known = Known { position: Position(0), server: known.server + 1, since: Instant::now() };
        });
    }

    /// Looks which server a new connection leads to, and whether its log goes as far as it is known to go; and sets its
    /// session up. All in one round trip, for each connection pays it.
    pub(crate) async fn meet(
        &self,
        connection: &mut PgConnection,
        types: &EventTypes,
        sql: &Sql,
        setup: &str,
    ) -> Result<(), sqlx::Error> {
        let known = *self.known.borrow();
        let start = include_str!("../sql/server_start.sql");
        // The server may have crashed, without a new start of its postmaster.
        let looks = known.position > Position(0);
        let head = if looks { sql.head().0 } else { "".into() };
        let statements = [setup, &head, start].map(|statement| statement.trim_end().trim_end_matches(';'));
        let rows = sqlx::raw_sql(AssertSqlSafe(statements.join(";\n"))).fetch_all(connection).await?;
        let Some((start, before)) = rows.split_last() else { return Err(sqlx::Error::RowNotFound) };
        if types.meet(start.try_get(0)?) {
            self.forget();
        } else if looks && let Some(head) = before.last() {
            let head: i64 = head.try_get(0)?;
            self.seen(known.server, known.position, Position(head.unsigned_abs()));
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
        head.heard(first, Position(7));
        head.heard(first, Position(5));
        assert_eq!(head.known(first), Position(7));
        head.seen(first, Position(7), Position(9));
        assert_eq!(head.known(first), Position(7));
        // It ends before what is known of it.
        head.seen(first, Position(7), Position(5));
        let second = head.server();
        assert_eq!((head.known(first), head.known(second)), (Position(0), Position(5)));
        // An answer of the server of before, which comes late.
        head.heard(first, Position(8));
        head.seen(first, Position(8), Position(1));
        assert_eq!((head.server(), head.known(second)), (second, Position(5)));
        assert!(!head.is_current(Duration::from_secs(3_600)));
        assert!(head.trusts(Duration::ZERO) && !head.trusts(ASSUMED_ALIVE));
        head.broke();
        assert!(!head.trusts(Duration::from_millis(500)), "it was idle when another broke");
        head.forget();
        assert_eq!(head.known(head.server()), Position(0));
    }
}
