//! The errors of a store, and their texts.

use std::{error::Error, fmt, sync::Arc};

use uuid::Uuid;

use super::{BoxError, conflict::Conflict, event::EventError, parked::ParkedKeys};
use crate::{
    doctor::Report,
    invalid::Invalid,
    stream::{Position, StreamId, Version},
};

/// An error of a store.
///
/// Each text includes its reason, in one line and once. So [`source`](Error::source) is empty where the text includes
/// the reason: code finds the error below with [`reason`](Self::reason).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another append came first. Nothing was recorded: read again, decide again.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Another session holds a lock for too long, or the server gave up the statement in favour of other sessions.
    /// Nothing was recorded: try again.
    #[error("the store is busy: {}", Chain(&**.0))]
    Busy(BoxError),
    /// The store cannot be reached, or cannot write at the moment: it is down, full, read-only or a standby. Nothing
    /// was recorded: try again when it is back.
    #[error("the store is unavailable: {}", Chain(&**.0))]
    Unavailable(BoxError),
    /// The store is not where the URL says, or may not be used: a wrong password, no such database or folder, a file
    /// that is read-only, a missing right. Mend the URL or the rights; trying again does not help.
    #[error("the store cannot be used: {}", Chain(&**.0))]
    Denied(BoxError),
    /// The connection broke during the append: the store cannot tell whether the events were recorded. Repeat the call
    /// with the same command id or event ids; the events are recorded once.
    #[error("whether the events were recorded is unknown: {}", Chain(&**.0))]
    Unknown(BoxError),
    /// A statement on the [connection](crate::Tx::connection) of a transaction has committed it or rolled it back. Work
    /// before a `COMMIT` is recorded (SQLite: rolled back), work before a `ROLLBACK` is not, and later work was not
    /// done. Mend the code that uses the connection: sqlx's `begin` makes a savepoint there, which it may commit or
    /// roll back.
    #[error("a statement on its connection has ended the transaction; use savepoints there, as sqlx's `begin` does")]
    Ended,
    /// The id of an event is taken: by other data, or by a part of the append.
    #[error("event {event} of command {command} is recorded already, with other data")]
    Duplicate {
        /// The id that is taken.
        event: Uuid,
        /// The command whose event was to be appended.
        command: Uuid,
    },
    /// The command id was used before, for something else: another command, another target, or a plain append.
    #[error("command id {command} was used before, for something else, in stream {stream}")]
    Reused {
        /// The id that was used before.
        command: Uuid,
        /// The stream it was used in.
        stream: StreamId,
    },
    /// The call asks for what no store can do: mend the call.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// An event could not be written: mend the event type.
    #[error("{}: {}", Brief(self), Chain(reason))]
    Unwritable {
        /// The stored name of the event.
        name: String,
        /// Why.
        reason: EventError,
    },
    /// An event could not be read: this program is older than the log, or lacks an upcast. An event that was appended
    /// by mistake is read as nothing after `#[event(retired("…"))]`. Other events are not affected.
    #[error("{}: {}", Brief(self), Chain(reason))]
    Unreadable {
        /// The stream of the event.
        stream: StreamId,
        /// Its place in the stream.
        version: Version,
        /// Why.
        reason: EventError,
    },
    /// A state could not be written as a snapshot, or not be read back from it: mend its type.
    #[error("{}: {}", Brief(self), Chain(reason))]
    Snapshot {
        /// The type of the state.
        kind: String,
        /// Why.
        reason: EventError,
    },
    /// A row of a read model could not be written or read.
    #[error("{}: {}", Brief(self), Chain(&**reason))]
    Row {
        /// The table, `balance@1`.
        table: String,
        /// Why.
        reason: BoxError,
    },
    /// The table of a read model does not exist. Run the model with a `Runner`; while a `Runner` starts, try again.
    #[error("nothing has built `{table}` yet: run its read model with a `Runner`")]
    NotBuilt {
        /// The table, `balance@1`.
        table: String,
    },
    /// A read model is being built and not yet whole: it has not reached the position at which the log ended when the
    /// build began. Try again, or read [after](crate::ReadModels) a position.
    #[error("`{table}` is being built: at position {at} of {until}")]
    Building {
        /// The table, `balance@2`.
        table: String,
        /// The position it has reached.
        at: Position,
        /// The position from which on it is whole.
        until: Position,
    },
    /// A read model's table has other columns than the struct has fields: raise the model's version. If the table is
    /// another program's, give the model another name.
    #[error(
        "`{table}` has other columns than its read model: raise the version of the read model, or give it another \
         name if the table is of another program"
    )]
    Columns {
        /// The table, `balance@1`.
        table: String,
    },
    /// A processor did not reach a position within the time the caller gave. Try again.
    #[error("`{projection}` has only reached position {at}, not {until}{}", because(reason))]
    Behind {
        /// The processor or read model, `balance@1`.
        projection: String,
        /// The position it has reached.
        at: Position,
        /// The position to reach.
        until: Position,
        /// The error that holds the processor up, if known.
        reason: Option<BoxError>,
    },
    /// Rows lack events until an operator acts: their keys wait behind an event that the read model could not process.
    /// A table promoted now would lack them too. See the dead letters of the read model.
    #[error("`{projection}` lacks events of {keys}, which wait behind one that could not be processed: {reason}")]
    Parked {
        /// The read model, `balance@1`, or the subscription or projection.
        projection: String,
        /// The keys that wait.
        keys: ParkedKeys,
        /// The first event that could not be processed, and why.
        reason: String,
    },
    /// An inline read model or projection could not process an event of the append. Nothing was recorded: mend the code
    /// that processes the event, or do without the event.
    #[error("`{projection}` is kept with each append and could not process it: {}", Chain(&**reason))]
    NotProjected {
        /// The read model or projection, `balance@1`.
        projection: String,
        /// The event, and why.
        reason: BoxError,
    },
    /// A projection cannot go on until its code is mended.
    #[error("`{projection}` cannot run: {}", Chain(&**reason))]
    Stopped {
        /// The projection or read model, `balance@1`.
        projection: String,
        /// Why.
        reason: BoxError,
    },
    /// A position that a processor has reached or a caller has seen is not in the log: the log has lost its end (a
    /// restored backup, a failover), or the position or [`Token`](crate::Token) is of another log. Nothing was
    /// recorded.
    ///
    /// The rows of a projection may be made of events that the log has lost: build them anew, under another version. A
    /// caller that sent a position or a token reads again and decides again.
    #[error("{}", forked(position, event))]
    Forked {
        /// The position the projection has reached, or the caller has seen.
        position: Position,
        /// The event that was at the position; `None` if only the position is known.
        event: Option<Uuid>,
    },
    /// In programs of a newer release a processor reads events that this program does not read: this node stands aside.
    /// If an append that keeps rows fails with it, nothing was recorded. Over HTTP, 503: a newer node can append, and
    /// this node can again once a newer node has processed those events.
    #[error("this program does not read all that `{projection}` reads in newer ones: it lacks {events}")]
    Newer {
        /// The read model or projection, `balance@1`.
        projection: String,
        /// The events that this program does not read: `account.fee`, version 2 of `account.deposited`.
        events: String,
    },
    /// A processor reads events of a name that it did not read before, and passed one of them earlier. The processor
    /// stops until an operator decides what happens to those events: `Processors::deliver_missed`, `accept` or
    /// `rebuild`.
    #[error(
        "`{projection}` has passed event {version} of stream {stream} (`{name}`, position {position}), which it reads \
         since this release only: say `deliver_missed`, `accept` or `rebuild`"
    )]
    Missed {
        /// The projection or subscription, `ledger`.
        projection: String,
        /// The stored name of the first event that was passed.
        name: String,
        /// Its stream.
        stream: StreamId,
        /// Its place there.
        version: Version,
        /// Its place in the log.
        position: Position,
    },
    /// A subscription runs for the first time, on a log that has events already, and has no start. Say `from_now`,
    /// `from_beginning` or `from` after it on the runner, or `FROM` in the subscription.
    #[error(
        "`{projection}` runs for the first time and the log ends at position {head}: say where it begins, with \
         `.from_now()`, `.from_beginning()` or `.from(position)`"
    )]
    NoStart {
        /// The subscription, `outside`.
        projection: String,
        /// The position at which the log ends.
        head: Position,
    },
    /// A node of release 0.1 runs on this log. Releases from 0.2 on cannot run beside it: stop it. Nodes that wait for
    /// that go on by themselves once the node has stopped, or has not beaten for a lease.
    #[error("a node of release 0.1 runs on this log ({process}): stop it first")]
    OldRelease {
        /// The process of the node: host and process id.
        process: String,
    },
    /// The tables of the log are older than this program, and the options of the store or the rights of its role forbid
    /// to change them: apply the missing migrations first.
    #[error("the database lacks {}: apply what is missing as the owner of the schema", missing.join(", "))]
    Unmigrated {
        /// The missing parts, in order: `migration 002_snapshots`.
        missing: Vec<String>,
    },
    /// The database is no safe place for a log, and the caller asked to open the store only in a safe one. The report
    /// says why.
    #[error("the database is no safe place for a log: {}", .0.dangers())]
    Unhealthy(Report),
    /// The tables of the log were made by another version of this library, or by something else.
    #[error("the log in the database does not fit this program: {0}")]
    Schema(String),
    /// The database is damaged, or is no database: restore it.
    #[error("the database is damaged: {}", Chain(&**.0))]
    Damaged(BoxError),
    /// The database rejected a statement for a reason that no retry changes. `docs/errors.md` lists the reasons and who
    /// must act.
    #[error("the database rejected the statement: {}", Chain(&**.0))]
    Database(BoxError),
}

fn forked(position: &Position, event: &Option<Uuid>) -> String {
    match event {
        Some(event) => format!(
            "the log is not the one it has followed: event {event} is not at position {position} any more. The end of \
             the log was lost, by a restored backup or a failover perhaps: build it anew, under another version"
        ),
        None => format!(
            "position {position} is not in this log: the end of the log was lost, by a restored backup or a failover \
             perhaps, or the position is of another log. Read again"
        ),
    }
}

fn because(reason: &Option<BoxError>) -> String {
    reason.as_ref().map_or_else(String::new, |reason| format!(": {}", Chain(&**reason)))
}

impl StoreError {
    /// Whether another append came first: the caller may read and decide again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    /// Whether the same call may succeed later, so that over HTTP it is 503 and not 500. After
    /// [`Unknown`](Self::Unknown), with the same ids.
    pub fn is_retryable(&self) -> bool {
        let read = matches!(self, Self::Behind { .. } | Self::Building { .. } | Self::NotBuilt { .. });
        read || matches!(self, Self::Busy(_) | Self::Unavailable(_) | Self::Unknown(_) | Self::Newer { .. })
    }

    /// Returns the error below: of the driver, of serde, of the user's code. It is for code that needs the type: the
    /// text of this error includes the text of that one.
    pub fn reason(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Busy(reason)
            | Self::Unavailable(reason)
            | Self::Denied(reason)
            | Self::Unknown(reason)
            | Self::Damaged(reason)
            | Self::Database(reason)
            | Self::Row { reason, .. }
            | Self::NotProjected { reason, .. }
            | Self::Stopped { reason, .. }
            | Self::Behind { reason: Some(reason), .. } => {
                Some(match reason.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
                    // One error, shared by several callers.
                    Some(shared) => &**shared,
                    None => &**reason,
                })
            }
            Self::Unwritable { reason, .. } | Self::Unreadable { reason, .. } | Self::Snapshot { reason, .. } => {
                Some(reason)
            }
            _ => None,
        }
    }

    /// Whether the cause is an event that a newer program reads and this one does not: a later version of its form, or
    /// a name that this program does not know. Over HTTP, 503: another node can answer.
    pub fn is_newer(&self) -> bool {
        match self {
            Self::Newer { .. } => true,
            Self::Unreadable { reason, .. } => matches!(reason, EventError::Schema(..) | EventError::Name(..)),
            _ => false,
        }
    }

    /// Whether the request was refused before anything was done: a transaction can still commit its earlier operations.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Conflict(_) | Self::Duplicate { .. } | Self::Reused { .. } | Self::Invalid(_) => true,
            // With an event, a checkpoint failed, and the transaction may have written rows already.
            Self::Forked { event, .. } => event.is_none(),
            _ => false,
        }
    }

    /// Maps the error of a look-up made after the append succeeded. A retryable error must not read as "nothing was
    /// recorded", so it becomes [`Unknown`](Self::Unknown).
    pub fn though_recorded(self) -> Self {
        if self.is_retryable() { Self::Unknown(self.into()) } else { self }
    }
}

/// The party that caused an error of the database, and so must act. It is derived from the codes of the database, never
/// from its messages; `docs/errors.md` has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blame {
    /// The server, or its operator: the statement is right, and succeeds once the server can.
    Server,
    /// The program: the statement is wrong, whatever the data.
    Program,
    /// The row, and so the event it is made of: other rows succeed.
    Row,
    /// The caller of the transaction: it had failed before.
    Caller,
}

/// An error without the parts that may quote an event, a state or a row: for logs, whose readers may not see the data.
#[doc(hidden)]
pub struct Brief<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.downcast_ref() {
            Some(StoreError::Unwritable { name, .. }) => write!(f, "cannot write event `{name}`"),
            Some(StoreError::Unreadable { stream, version, .. }) => {
                write!(f, "cannot read event {version} of stream {stream}")
            }
            Some(StoreError::Snapshot { kind, .. }) => write!(f, "cannot keep a snapshot of `{kind}`"),
            Some(StoreError::Row { table, .. }) => write!(f, "cannot write or read a row of `{table}`"),
            _ => fmt::Display::fmt(self.0, f),
        }
    }
}

/// An error with all errors below it, in one line. The text of an error is left out if the text above ends with it.
#[doc(hidden)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut below = self.0.source();
        while let Some(error) = below {
            let text = error.to_string();
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            (said, below) = (text, error.source());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("disk: {0}")]
    struct Disk(#[source] std::io::Error);

    #[test]
    fn each_text_names_its_reason_to_the_bottom_and_once() {
        let row = || StoreError::Row { table: "sum@1".into(), reason: "too large".into() };
        let disk = || BoxError::from(Disk(std::io::Error::other("full")));
        let behind =
            |reason| StoreError::Behind { projection: "sum@1".into(), at: Position(3), until: Position(4), reason };
        let stream = || StreamId::new("post", "p1");
        let newer = || EventError::Schema("post.published".into(), 3);
        let told = [
            (behind(None), "`sum@1` has only reached position 3, not 4"),
            (
                behind(Some(row().into())),
                "`sum@1` has only reached position 3, not 4: cannot write or read a row of `sum@1`: too large",
            ),
            (behind(Some(disk())), "`sum@1` has only reached position 3, not 4: disk: full"),
            (StoreError::Busy(disk()), "the store is busy: disk: full"),
            (StoreError::Unavailable(disk()), "the store is unavailable: disk: full"),
            (StoreError::Denied(disk()), "the store cannot be used: disk: full"),
            (StoreError::Unknown(disk()), "whether the events were recorded is unknown: disk: full"),
            (StoreError::Damaged(disk()), "the database is damaged: disk: full"),
            (StoreError::Database(disk()), "the database rejected the statement: disk: full"),
            (row(), "cannot write or read a row of `sum@1`: too large"),
            (
                StoreError::Unreadable { stream: stream(), version: Version(4), reason: newer() },
                "cannot read event 4 of stream post-p1: version 3 of `post.published` is newer than this program",
            ),
            (
                StoreError::Unwritable { name: "post.published".into(), reason: EventError::NotFinite },
                "cannot write event `post.published`: a number in it is not finite",
            ),
            (
                StoreError::Snapshot { kind: "Post".into(), reason: EventError::NotFinite },
                "cannot keep a snapshot of `Post`: a number in it is not finite",
            ),
            (
                StoreError::Stopped { projection: "sum@1".into(), reason: row().into() },
                "`sum@1` cannot run: cannot write or read a row of `sum@1`: too large",
            ),
        ];
        for (error, text) in told {
            assert_eq!(error.to_string(), text);
            assert!(error.source().is_none(), "the text has said it: {text}");
            assert_eq!(Chain(&error).to_string(), text);
            // Code finds the error below by its type.
            assert_eq!(error.reason().is_some(), text != "`sum@1` has only reached position 3, not 4");
        }
        assert!(StoreError::Busy(disk()).reason().is_some_and(|reason| reason.is::<Disk>()));
    }

    #[test]
    fn a_log_gets_no_content_of_events_states_and_rows() {
        let row = StoreError::Row { table: "sum@1".into(), reason: "invalid type: string \"Ann\"".into() };
        assert_eq!(Brief(&row).to_string(), "cannot write or read a row of `sum@1`");
        let busy = StoreError::Busy("a lock".into());
        assert_eq!(Brief(&busy).to_string(), busy.to_string());
    }
}
