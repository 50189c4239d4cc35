//! Why a shard could not go on, at which event and key, and whether trying again could help.

use std::{
    any::Any,
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use eventstore_core::{
    Blame as DatabaseBlame, BoxError, EventError, Invalid, Position, Raw, Recorded, StoreError, StreamId, Transaction,
    Unavailable, Version, engine::Chain,
};

use crate::record::{queue::Queue, reads::Reads};

/// Why a shard could not go on. Shown whole: the event, and the reason with all that is below it.
#[derive(Debug)]
pub struct Failure {
    /// The event it was about, if that is known.
    pub event: Option<EventRef>,
    /// Where that event would wait, if that is known.
    pub queue: Option<Queue>,
    /// What has failed.
    pub reason: BoxError,
    /// Whose fault it is.
    pub blame: Blame,
}

/// Whose fault it is, and so what is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The database or the way to it: tried again for ever, and no event is to blame.
    World,
    /// An event and the user's code: tried again a few times, then set aside.
    Event,
    /// An event that will fail again, for certain: set aside at once.
    Row,
    /// An event that cannot be read: that stops everything, or it is set aside at once.
    Unreadable,
    /// This program's code, whatever comes: it must be mended, and nothing goes on.
    Program,
}

/// An event, for people.
#[derive(Clone, Debug)]
pub struct EventRef {
    stream: StreamId,
    version: Version,
    position: Position,
    name: String,
}

impl Failure {
    /// Makes a failure of what the user's code returned: an event may be to blame, unless the error is
    /// [`Unavailable`], or has one below it.
    pub fn theirs(reason: impl Into<BoxError>) -> Self {
        let reason = reason.into();
        let blame = if Unavailable::is_in(&*reason) { Blame::World } else { Blame::Event };
        Self { event: None, queue: None, reason, blame }
    }

    /// As [`theirs`](Self::theirs), where the user's code has had the connection of a transaction: the database says who is to
    /// blame.
    pub fn of_sql(reason: BoxError, transaction: &dyn Transaction) -> Self {
        let said = transaction.blame(&*reason);
        let failed = Self::theirs(reason);
        let blame = match said {
            // What it calls is away, whatever else is below that.
            _ if failed.blame == Blame::World => Blame::World,
            Some(DatabaseBlame::Server) => Blame::World,
            Some(DatabaseBlame::Program) => Blame::Program,
            _ => Blame::Event,
        };
        Self { blame, ..failed }
    }

    /// What the user's code has left of a transaction, whatever it said.
    pub async fn unless_whole(transaction: &mut dyn Transaction) -> Result<(), Self> {
        transaction.check().await.map_err(|error| match error {
            // A statement failed or was dropped, and the code has said nothing of it.
            StoreError::Invalid(_) => Self::theirs(error),
            error => error.into(),
        })
    }

    /// What must be mended in the program.
    pub fn program(reason: impl Into<BoxError>) -> Self {
        Self { event: None, queue: None, reason: reason.into(), blame: Blame::Program }
    }

    /// What the code of a user said when it panicked.
    pub fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Self::theirs(format!("it panicked: {}", text.unwrap_or_default()))
    }

    /// The same, with the event it was about.
    pub fn at(self, event: &Recorded<Raw>) -> Self {
        let (stream, version, position) = (event.stream.clone(), event.version, event.position);
        Self { event: Some(EventRef { stream, version, position, name: event.data.name.to_string() }), ..self }
    }

    /// The same, and the key that would have to wait is unknown: all must.
    pub fn for_certain(self) -> Self {
        let blame = if self.blame == Blame::World { Blame::World } else { Blame::Program };
        Self { blame, ..self }
    }

    /// The same, with the key it was about.
    pub fn of(self, key: &str) -> Self {
        self.in_queue(Queue::Key(key.into()))
    }

    /// The same, with where it would wait.
    pub fn in_queue(self, queue: Queue) -> Self {
        Self { queue: Some(queue), ..self }
    }

    /// As an error for others: what the store has said keeps its type where no event is named.
    pub fn told(self) -> BoxError {
        match self.event {
            None if self.reason.is::<StoreError>() => self.reason,
            _ => self.into(),
        }
    }

    /// The event that a newer program reads and this one does not, if that is why.
    pub fn newer(&self) -> Option<Reads> {
        match self.reason.downcast_ref()? {
            StoreError::Unreadable { reason: EventError::Schema(name, version), .. } => {
                Some(Reads::one(name, *version))
            }
            _ => None,
        }
    }

    /// The position of the event it was about.
    pub fn position(&self) -> Option<Position> {
        self.event.as_ref().map(|event| event.position)
    }
}

/// Runs the code of a user that processes one event; whatever it does is told with the event.
pub fn at<T>(event: &Recorded<Raw>, code: impl FnOnce() -> Result<T, StoreError>) -> Result<T, Failure> {
    let done = catch_unwind(AssertUnwindSafe(code)).map_err(|panic| Failure::panicked(&*panic).at(event))?;
    done.map_err(|error| Failure::from(error).at(event))
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        use StoreError as E;
        // What is declared, what is written in `project`, how events are read: that is not mended while this runs.
        let blame = match error {
            E::Stopped { .. }
            | E::Ended
            | E::Columns { .. }
            | E::NotBuilt { .. }
            | E::Building { .. }
            | E::Unreadable { .. }
            | E::Forked { .. }
            | E::Schema(_)
            | E::Newer { .. }
            | E::Missed { .. }
            | E::NoStart { .. }
            | E::OldRelease { .. }
            | E::Invalid(Invalid::Name { .. } | Invalid::TooLarge { .. }) => Blame::Program,
            E::Row { .. } => Blame::Row,
            _ => Blame::World,
        };
        let reason = match error {
            E::Stopped { reason, .. } => reason,
            error => error.into(),
        };
        Self { event: None, queue: None, reason, blame }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(event) = &self.event {
            write!(f, "{event}: ")?;
        }
        write!(f, "{}", Chain(&*self.reason))
    }
}

impl fmt::Display for EventRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, version, position, name } = self;
        write!(f, "event {version} of stream {stream} (`{name}`, position {position})")
    }
}

/// What a step has come to that it could not finish.
pub enum Halt {
    Lost,
    Failed(Failure),
}

impl<F: Into<Failure>> From<F> for Halt {
    fn from(failed: F) -> Self {
        Self::Failed(failed.into())
    }
}

// Shown whole: it has no source that it has not said.
impl Error for Failure {}
