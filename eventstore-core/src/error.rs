//! What can go wrong, by what the caller can do about it.

use std::{collections::BTreeSet, error::Error, fmt, iter::successors, sync::Arc};

use uuid::Uuid;

use crate::{
    doctor::Report,
    invalid::Invalid,
    stream::{Expected, Position, StreamId, Version},
};

/// Any error, as user code and drivers hand it over.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Marks an error of something outside of the store as one of the way to it: the other side is away, or refuses every call
/// for a while. What handles events and fails with it, as the error itself or anywhere below it
/// ([`source`](Error::source)), is tried again until it succeeds, with pauses of up to 5 seconds, and no event is blamed.
/// `Busy`, `Unavailable` and `Unknown` of a store or of a command need no mark, unless the command has a refusal type of its
/// own, or the error is in an enum under `#[error(transparent)]`, which hides it from `source`: give it a text, and `#[from]`.
///
/// ```
/// # use eventstore_core::{BoxError, Unavailable};
/// # struct Client;
/// # impl Client { fn send(&self) -> Result<(), std::io::Error> { Ok(()) } }
/// fn deliver(client: &Client) -> Result<(), BoxError> {
///     client.send().map_err(Unavailable::new)?;
///     Ok(())
/// }
/// # deliver(&Client).unwrap();
/// ```
#[derive(Debug, thiserror::Error)]
#[error("unavailable")]
pub struct Unavailable(#[source] BoxError);

impl Unavailable {
    /// Wraps any error.
    pub fn new(reason: impl Into<BoxError>) -> Self {
        Self(reason.into())
    }

    /// Whether an error is one, or has one below it, or an error of a store that is busy, unavailable or of unknown outcome.
    /// Neither a conflict nor a read model that no node builds is one: such an error may last.
    pub fn is_in(error: &(dyn Error + 'static)) -> bool {
        let away = |error: &StoreError| {
            matches!(error, StoreError::Busy(_) | StoreError::Unavailable(_) | StoreError::Unknown(_))
        };
        successors(Some(error), |error| below(*error))
            .any(|error| error.is::<Self>() || error.downcast_ref().is_some_and(away))
    }
}

/// What a store could not do.
///
/// Each text names its reason, in one line and once. So [`source`](Error::source) is empty where the text has said it:
/// code finds the error below by [`reason`](Self::reason).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another append came first. Nothing was recorded: read again, decide again.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Another session holds a lock for too long, or the server gave up the statement for the sake of others. Nothing was
    /// recorded: try again.
    #[error("the store is busy: {}", Chain(&**.0))]
    Busy(BoxError),
    /// The store cannot be reached, or cannot write at the moment: it is down, full, read-only or a standby. Nothing was
    /// recorded: try again when it is back.
    #[error("the store is unavailable: {}", Chain(&**.0))]
    Unavailable(BoxError),
    /// The store is not where the URL says, or may not be used: a wrong password, no such database or folder, a file
    /// that is read-only, a missing right. Mend the URL or the rights; trying again does not help.
    #[error("the store cannot be used: {}", Chain(&**.0))]
    Denied(BoxError),
    /// The connection broke while recording: recorded or not, the store cannot tell. Ask again with the same command id
    /// or event ids; the events are recorded once.
    #[error("whether the events were recorded is unknown: {}", Chain(&**.0))]
    Unknown(BoxError),
    /// A statement on the [connection](crate::Tx::connection) of a transaction has committed it or rolled it back. What
    /// was done before a `COMMIT` is recorded (SQLite: rolled back); what was done before a `ROLLBACK` is not; what was to
    /// come was not done.
    /// Mend the code that uses the connection: sqlx's `begin` makes a savepoint there, which it may commit or roll back.
    #[error("a statement on its connection has ended the transaction; use savepoints there, as sqlx's `begin` does")]
    Ended,
    /// The id of an event is taken: by other data, or by a part of what was to be appended.
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
        /// Where it was used.
        stream: StreamId,
    },
    /// What was asked cannot be done by any store: mend the call.
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
    /// An event could not be read: this program is older than the log, or lacks an upcast; or it was appended by
    /// mistake, and is to be read as nothing from now on: `#[event(retired("…"))]`. The rest of the log is not
    /// disturbed.
    #[error("{}: {}", Brief(self), Chain(reason))]
    Unreadable {
        /// The stream it is in.
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
    /// The table of a read model is not there. Run the model with a `Runner`; while one is being started, try again.
    #[error("nothing has built `{table}` yet: run its read model with a `Runner`")]
    NotBuilt {
        /// The table, `balance@1`.
        table: String,
    },
    /// A read model is being built and not yet whole: it has not come to where the log ended when it began. Try again, or
    /// read [after](crate::ReadModels) a position.
    #[error("`{table}` is being built: at position {at} of {until}")]
    Building {
        /// The table, `balance@2`.
        table: String,
        /// How far it has come.
        at: Position,
        /// Where it is whole.
        until: Position,
    },
    /// A read model's table has other columns than the struct has fields: raise the model's version. If the table is
    /// another program's, name the model otherwise.
    #[error(
        "`{table}` has other columns than its read model: raise the version of the read model, or give it another \
         name if the table is somebody else's"
    )]
    Columns {
        /// The table, `balance@1`.
        table: String,
    },
    /// A processor has not come far enough in the time given to it. Try again.
    #[error("`{projection}` has only reached position {at}, not {until}{}", because(reason))]
    Behind {
        /// The processor or read model, `balance@1`.
        projection: String,
        /// How far it has come.
        at: Position,
        /// How far it was to come.
        until: Position,
        /// What holds it up, if that is known.
        reason: Option<BoxError>,
    },
    /// Rows lack events, and will not get them by themselves: their keys wait behind an event that the read model could not
    /// process. Also what is promoted would lack them. See its dead letters.
    #[error("`{projection}` lacks events of {keys}, which wait behind one that could not be processed: {reason}")]
    Parked {
        /// The read model, `balance@1`, or the subscription or projection.
        projection: String,
        /// The keys that wait.
        keys: ParkedKeys,
        /// The first of the events, and why it could not be processed.
        reason: String,
    },
    /// An inline read model or projection could not process what was to be appended. Nothing was recorded: mend what it
    /// does with the event, or do without the event.
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
    /// A position that was reached or seen is not in the log: the log has lost its end (a restored backup, a failover), or
    /// the position or [`Token`](crate::Token) is of another log. Nothing was recorded.
    ///
    /// For a projection, the rows may hold what is not in the log any more: build them anew, under another version. A
    /// caller that sent a position or a token reads again and decides again.
    #[error("{}", forked(position, event))]
    Forked {
        /// How far the projection has come, or the caller has seen.
        position: Position,
        /// The event that was there; none if only the position is known.
        event: Option<Uuid>,
    },
    /// A processor reads events in programs of a newer release that this program does not read: here it stands aside. Told by
    /// an append that keeps rows, nothing was recorded. Over HTTP, 503: another node can, and this one can again once a
    /// newer one has processed those events.
    #[error("this program does not read all that `{projection}` reads in newer ones: it lacks {events}")]
    Newer {
        /// The read model or projection, `balance@1`.
        projection: String,
        /// The events that this program does not read: `account.fee`, version 2 of `account.deposited`.
        events: String,
    },
    /// A processor reads events of a name that it did not read before, and passed one of them earlier. It stops until an
    /// operator says what is to become of those events: `Processors::deliver_missed`, `accept` or `rebuild`.
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
    /// A subscription runs for the first time, on a log that has events already, and does not say where it begins. Say
    /// `from_now`, `from_beginning` or `from` after it on the runner, or `FROM` in the subscription.
    #[error(
        "`{projection}` runs for the first time and the log ends at position {head}: say where it begins, with \
         `.from_now()`, `.from_beginning()` or `.from(position)`"
    )]
    NoStart {
        /// The subscription, `outside`.
        projection: String,
        /// Where the log ends.
        head: Position,
    },
    /// A node of release 0.1 runs on this log. Releases from 0.2 on cannot run beside it: stop it. What waits goes on by
    /// itself when the node has stopped, or has been silent for a lease.
    #[error("a node of release 0.1 runs on this log ({process}): stop it first")]
    OldRelease {
        /// Which process it is: host and process id.
        process: String,
    },
    /// The tables of the log are older than this program, which may not, or must not, change them: apply the
    /// migrations that are missing first.
    #[error("the database lacks {}: apply what is missing as the owner of the schema", missing.join(", "))]
    Unmigrated {
        /// What is missing, in order: `migration 002_snapshots`.
        missing: Vec<String>,
    },
    /// The database is no safe place for a log, and the store was to be opened only if it is: see what was found.
    #[error("the database is no safe place for a log: {}", .0.dangers())]
    Unhealthy(Report),
    /// The tables of the log were made by another version of this library, or by something else.
    #[error("the log in the database does not fit this program: {0}")]
    Schema(String),
    /// The database is damaged, or is no database: restore it.
    #[error("the database is damaged: {}", Chain(&**.0))]
    Damaged(BoxError),
    /// The database rejected a statement for a reason that no retry changes. What each reason is, and who is to act, is
    /// in `docs/errors.md`.
    #[error("the database rejected the statement: {}", Chain(&**.0))]
    Database(BoxError),
}

/// Who has caused an error of the database, and so who is to act; by what the database says in its codes, never in words.
/// `docs/errors.md` has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blame {
    /// The server, or its operator: the statement is right, and succeeds once the server can.
    Server,
    /// The program: the statement is wrong, whatever the data.
    Program,
    /// The row that is written, and so the event it is made of: others succeed.
    Row,
    /// The caller of the transaction: it had failed before.
    Caller,
}

/// An error without what may quote an event, a state or a row: for logs, which others read than those who may see the
/// data.
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

/// The error below another: of a [`StoreError`], whose text has said it, the [`reason`](StoreError::reason); of a command
/// that the store could not answer, the store's; of an [`Arc`] or an `io::Error`, what it wraps.
#[doc(hidden)]
pub fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(CommandError::Store(error)) = error.downcast_ref::<CommandError<Refusal>>() {
        return Some(error);
    }
    // What these wrap is not their source: that is the source of what they wrap.
    if let Some(shared) = error.downcast_ref::<Arc<StoreError>>() {
        return Some(&**shared);
    }
    if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return Some(&**shared);
    }
    if let Some(wrapped) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        return Some(wrapped);
    }
    error.downcast_ref().map_or_else(|| error.source(), StoreError::reason)
}

/// An error with all that is below it, in one line; what one says of the next by itself is not said twice.
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
    /// Whether another command was faster: reading and deciding again may help.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    /// Whether the same call may succeed later, so that over HTTP it is 503 and not 500. After
    /// [`Unknown`](Self::Unknown), with the same ids.
    pub fn is_retryable(&self) -> bool {
        let read = matches!(self, Self::Behind { .. } | Self::Building { .. } | Self::NotBuilt { .. });
        read || matches!(self, Self::Busy(_) | Self::Unavailable(_) | Self::Unknown(_) | Self::Newer { .. })
    }

    /// The error below: of the driver, of serde, of the user's code. For code that wants its type; the text has it.
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
                    // Told to several callers.
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

    /// Whether an event is in the way that a newer program reads, and this one does not: a later version of its form, or a
    /// name that this program does not know. Over HTTP, 503: another node can.
    pub fn is_newer(&self) -> bool {
        match self {
            Self::Newer { .. } => true,
            Self::Unreadable { reason, .. } => matches!(reason, EventError::Schema(..) | EventError::Name(..)),
            _ => false,
        }
    }

    /// Whether it was refused for what was asked, before anything was done: in a transaction, what was done before
    /// can still be committed.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Conflict(_) | Self::Duplicate { .. } | Self::Reused { .. } | Self::Invalid(_) => true,
            // Of a checkpoint it is a failure: the rows that belong to it may have been written.
            Self::Forked { event, .. } => event.is_none(),
            _ => false,
        }
    }

    /// What an error is told as by a call that has found its events recorded, by itself perhaps, and cannot give the answer:
    /// that it may succeed later must not be taken for a refusal, so it is [`Unknown`](Self::Unknown).
    pub fn though_recorded(self) -> Self {
        if self.is_retryable() { Self::Unknown(self.into()) } else { self }
    }
}

/// An event could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The event type, which comes second, does not know the name: the event is of another type, or newer than this
    /// program. If it means nothing any more, `#[event(retired("…"))]` says so; if it is of another event type of this
    /// program that does not matter here, `#[event(others(…))]` does.
    #[error(
        "`{1}` has no event called `{0}`: it is newer than this program, or of another event type (`#[event(others(…))]`), \
         or means nothing any more (`#[event(retired(\"{0}\"))]`)"
    )]
    Name(String, &'static str),
    /// The stored form is newer than this program.
    #[error("version {1} of `{0}` is newer than this program")]
    Schema(String, u32),
    /// The body is not what the event type expects.
    #[error(transparent)]
    Body(#[from] serde_json::Error),
    /// The body is larger than [`BODY_BYTES`](crate::limits::BODY_BYTES): at least so many bytes.
    #[error("its body is larger than the limit: {0} bytes or more")]
    TooLarge(usize),
    /// The body holds NaN or an infinity, which JSON cannot say.
    #[error("a number in it is not finite")]
    NotFinite,
    /// The event can be written, but what would be stored could not be read again.
    #[error("what it is written as cannot be read back: {0}")]
    OneWay(String),
    /// The metadata stored beside the body is not readable.
    #[error("its metadata cannot be read: {0}")]
    Metadata(serde_json::Error),
    /// What the store has of it breaks the rules of a log: the name of its stream, its tags, its metadata, or a type that
    /// is not there. Something other than this library wrote it.
    #[error("what is stored of it breaks the rules: {0}")]
    Damaged(Arc<str>),
}

/// How many keys are listed by name.
const LISTED: usize = 20;

/// Keys that wait behind an event that could not be processed: their rows are incomplete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedKeys {
    /// The keys, byte by byte in order, 20 at most. A stream (`account-ann`) where the keys of the event are unknown.
    pub listed: Vec<String>,
    /// How many there are in all.
    pub count: usize,
}

impl ParkedKeys {
    /// Those of the first letters of keys.
    #[doc(hidden)]
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let keys: BTreeSet<_> = keys.into_iter().collect();
        Self { count: keys.len(), listed: keys.into_iter().take(LISTED).map(str::to_owned).collect() }
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl fmt::Display for ParkedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed: Vec<_> = self.listed.iter().map(|key| format!("`{key}`")).collect();
        f.write_str(&listed.join(", "))?;
        match self.count.saturating_sub(self.listed.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// An event that came in between: the one at `actual` in `stream`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream {stream} is at version {actual}; expected: {expected}{}", Names(self))]
#[non_exhaustive]
pub struct Conflict {
    /// The stream that is not as expected.
    pub stream: StreamId,
    /// What was expected of it. After an append condition: to be where it was before the event in the way.
    pub expected: Expected,
    /// The version it is at; after an append condition, the version of the event in the way.
    pub actual: Version,
    /// The stored names of the events in between, in order: those of `stream` after the expected version, up to
    /// `actual`. Of more than 20 the last 20. None where no version was expected, or a later one; nor if they could not
    /// be read.
    pub between: Vec<Arc<str>>,
}

impl Conflict {
    /// How many names it gives.
    pub(crate) const NAMES: usize = 20;

    /// A stream was not at the version it was expected to be at. What came in between, a [`Store`](crate::Store) adds.
    pub fn new(stream: StreamId, expected: Expected, actual: Version) -> Self {
        Self { stream, expected, actual, between: vec![] }
    }

    /// An event matches an append condition.
    pub fn in_the_way(stream: StreamId, version: Version) -> Self {
        Self::new(stream, Expected::Version(Version(version.0.saturating_sub(1))), version)
    }

    /// How many events came in between.
    pub(crate) fn events(&self) -> u64 {
        match self.expected {
            Expected::Version(expected) => self.actual.0.saturating_sub(expected.0),
            Expected::Any | Expected::Exists => 0,
        }
    }
}

/// The names of the events in between, as a message ends with them.
struct Names<'a>(&'a Conflict);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(conflict) = self;
        let more = conflict.events() > conflict.between.len() as u64;
        for (name, n) in conflict.between.iter().zip(0..) {
            f.write_str(match n {
                0 if more => "; in between: …, ",
                0 => "; in between: ",
                _ => ", ",
            })?;
            write!(f, "`{name}`")?;
        }
        Ok(())
    }
}

/// A refusal in words, for aggregates that name no error type of their own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl From<String> for Refusal {
    fn from(words: String) -> Self {
        Self(words)
    }
}

impl From<&str> for Refusal {
    fn from(words: &str) -> Self {
        Self(words.into())
    }
}

/// Why a command was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum CommandError<R> {
    /// The rule said no: the caller's mistake, in the domain's words. Over HTTP, 422.
    #[error(transparent)]
    Rejected(R),
    /// Others kept getting there first: worth another try. Over HTTP, 409.
    #[error(transparent)]
    Conflict(Conflict),
    /// The store could not answer. Over HTTP, 503 if the same command may succeed later, else 500.
    #[error(transparent)]
    Store(StoreError),
}

impl<R> CommandError<R> {
    /// Whether another command was faster.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }

    /// Whether the same command may succeed later. After [`StoreError::Unknown`], with the same command id.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_retryable())
    }
}

impl<R> From<StoreError> for CommandError<R> {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(conflict) => Self::Conflict(conflict),
            other => Self::Store(other),
        }
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
            // For code: the error below, by its type.
            assert_eq!(error.reason().is_some(), text != "`sum@1` has only reached position 3, not 4");
        }
        assert!(StoreError::Busy(disk()).reason().is_some_and(|reason| reason.is::<Disk>()));
    }

    #[test]
    fn what_is_below_an_error_of_a_store_is_found() {
        let away = || Unavailable::new("away");
        let stopped = StoreError::Stopped { projection: "sum@1".into(), reason: away().into() };
        let shared: Arc<dyn Error + Send + Sync> = Arc::new(away());
        for error in [away().into(), BoxError::from(stopped), StoreError::Busy(shared.into()).into()] {
            assert!(Unavailable::is_in(&*error), "{error}");
        }
        assert!(!Unavailable::is_in(&StoreError::Damaged(std::io::Error::other("full").into())));
    }

    #[test]
    fn a_log_gets_no_content_of_events_states_and_rows() {
        let row = StoreError::Row { table: "sum@1".into(), reason: "invalid type: string \"Ann\"".into() };
        assert_eq!(Brief(&row).to_string(), "cannot write or read a row of `sum@1`");
        let busy = StoreError::Busy("a lock".into());
        assert_eq!(Brief(&busy).to_string(), busy.to_string());
    }
}
