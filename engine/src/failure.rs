//! Why a shard could not go on, at which event and key, and whether trying again could help.

use std::{
    any::Any,
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use eventstore_core::{
    Blame, BoxError, EventError, Invalid, Position, Raw, Recorded, StoreError, StreamId, Transaction, Unavailable,
    Version, engine::Chain, process::panicked,
};
use futures::FutureExt;

use crate::record::{queue::Queue, reads::Reads};

/// Why a shard could not go on. `Display` shows the event, the reason, and every error below the reason.
#[derive(Debug)]
pub struct Failure {
    /// The event that failed, if it is known.
    pub event: Option<EventRef>,
    /// The queue in which that event would wait, if it is known.
    pub queue: Option<Queue>,
    /// The error.
    pub reason: BoxError,
    /// Whose fault the error is.
    pub fault: Fault,
}

/// Whose fault a failure is, and so what the engine does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The database, or the connection to it: the engine tries again for ever, and blames no event.
    World,
    /// An event together with the user's code: the engine tries it again three times, then parks its key.
    Event,
    /// An event that this code may process later: the engine parks its key at once, and tries it again.
    Later,
    /// An event that is certain to fail again: the engine parks its key at once.
    Row,
    /// An event that cannot be read: the processor stops, or parks the event at once with `park_unreadable`.
    Unreadable,
    /// This program's code, whatever the event: the processor stops until the code is mended.
    Program,
}

/// An event, as error texts name it.
#[derive(Clone, Debug)]
pub struct EventRef {
    stream: StreamId,
    version: Version,
    position: Position,
    name: String,
}

impl Failure {
    /// Makes a failure of an error that the user's code returned. An event may be to blame, unless the error is
    /// [`Unavailable`], or has one below it.
    pub fn theirs(reason: impl Into<BoxError>) -> Self {
        let reason = reason.into();
        let fault = if Unavailable::is_in(&*reason) { Fault::World } else { Fault::Event };
        Self { event: None, queue: None, reason, fault }
    }

    /// As [`theirs`](Self::theirs), where the user's code had the connection of a transaction: the database tells who
    /// is to blame.
    pub fn of_sql(reason: BoxError, transaction: &dyn Transaction) -> Self {
        let said = transaction.blame(&*reason);
        let failed = Self::theirs(reason);
        let fault = match said {
            // Something that the user's code calls is unavailable; the error of the database only follows from that.
            _ if failed.fault == Fault::World => Fault::World,
            Some(Blame::Server) => Fault::World,
            Some(Blame::Program) => Fault::Program,
            _ => Fault::Event,
        };
        Self { fault, ..failed }
    }

    /// Fails if the user's code left the transaction unfit to commit, even if the code returned `Ok`.
    pub async fn unless_whole(transaction: &mut dyn Transaction) -> Result<(), Self> {
        transaction.check().await.map_err(|error| match error {
            // A statement failed or was dropped, and the code returned no error for it.
            StoreError::Invalid(_) => Self::theirs(error),
            error => error.into(),
        })
    }

    /// Makes a failure that only a change of the program can mend.
    pub fn program(reason: impl Into<BoxError>) -> Self {
        Self { event: None, queue: None, reason: reason.into(), fault: Fault::Program }
    }

    /// Makes a failure of a panic of the user's code.
    pub fn panicked(panic: &(dyn Any + Send)) -> Self {
        Self::theirs(panicked(panic))
    }

    /// Returns this failure, naming the event.
    pub fn at(self, event: &Recorded<Raw>) -> Self {
        let (stream, version, position) = (event.stream.clone(), event.version, event.position);
        Self { event: Some(EventRef { stream, version, position, name: event.data.name.to_string() }), ..self }
    }

    /// Turns a failure that cannot be assigned to a key into one that stops the processor. A failure of the
    /// [`World`](Fault::World) stays as it is.
    pub fn for_certain(self) -> Self {
        let fault = if self.fault == Fault::World { Fault::World } else { Fault::Program };
        Self { fault, ..self }
    }

    /// Returns this failure, naming the key.
    pub fn of(self, key: &str) -> Self {
        self.in_queue(Queue::Key(key.into()))
    }

    /// Returns this failure, naming the queue in which its event would wait.
    pub fn in_queue(self, queue: Queue) -> Self {
        Self { queue: Some(queue), ..self }
    }

    /// Returns this failure as an error. A [`StoreError`] keeps its type where no event is named.
    pub fn told(self) -> BoxError {
        match self.event {
            None if self.reason.is::<StoreError>() => self.reason,
            _ => self.into(),
        }
    }

    /// Returns the event and its version, if this program failed because only a newer program reads that version.
    pub fn newer(&self) -> Option<Reads> {
        match self.reason.downcast_ref()? {
            StoreError::Unreadable { reason: EventError::Schema(name, version), .. } => {
                Some(Reads::one(name, *version))
            }
            _ => None,
        }
    }

    /// Returns the position of the event that failed, if it is known.
    pub fn position(&self) -> Option<Position> {
        self.event.as_ref().map(|event| event.position)
    }
}

/// Runs code of a processor. A panic is a failure that only a change of the program can mend.
pub async fn caught<T, E: Into<Failure>>(code: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
    match AssertUnwindSafe(code).catch_unwind().await {
        Ok(done) => done.map_err(Into::into),
        Err(panic) => Err(Failure::panicked(&*panic).for_certain()),
    }
}

/// Runs user code on one event. An error or a panic becomes a [`Failure`] that names the event.
pub fn at<T>(event: &Recorded<Raw>, code: impl FnOnce() -> Result<T, StoreError>) -> Result<T, Failure> {
    let done = catch_unwind(AssertUnwindSafe(code)).map_err(|panic| Failure::panicked(&*panic).at(event))?;
    done.map_err(|error| Failure::from(error).at(event))
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        use StoreError as E;
        // Declarations, `project`, and how events are read do not change while this program runs: it must be mended.
        let fault = match error {
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
            | E::Invalid(Invalid::Name { .. } | Invalid::TooLarge { .. }) => Fault::Program,
            E::Row { .. } => Fault::Row,
            _ => Fault::World,
        };
        let reason = match error {
            E::Stopped { reason, .. } => reason,
            error => error.into(),
        };
        Self { event: None, queue: None, reason, fault }
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

/// Why a step did not finish: the shard was lost to another node, or something failed.
pub enum Halt {
    Lost,
    Failed(Failure),
}

impl<F: Into<Failure>> From<F> for Halt {
    fn from(failed: F) -> Self {
        Self::Failed(failed.into())
    }
}

// No `source`: `Display` shows the whole chain.
impl Error for Failure {}
