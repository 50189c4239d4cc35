//! Why a follower could not go on, at which event, and whether trying again could help.

use std::{
    any::Any,
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use eventstore_core::{__private::Chain, BoxError, Invalid, Position, Raw, Recorded, StoreError, StreamId, Version};

/// Why a follower could not go on. Shown whole: the event, and the reason with all that is below it.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) event: Option<Place>,
    pub(crate) reason: BoxError,
    /// Whether this program's code must be mended: whatever else changes, it would fail again.
    pub(crate) stops: bool,
}

/// An event, for people.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    stream: StreamId,
    version: Version,
    position: Position,
    name: String,
}

impl Failed {
    /// What the user's code said or did: the world may be to blame.
    pub(crate) fn theirs(reason: BoxError) -> Self {
        Self { event: None, reason, stops: false }
    }

    /// What the code of a user said when it panicked.
    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Self::theirs(format!("it panicked: {}", text.unwrap_or_default()).into())
    }

    /// The same, with the event it was about.
    pub(crate) fn at(self, event: &Recorded<Raw>) -> Self {
        let (stream, version, position) = (event.stream.clone(), event.version, event.position);
        Self { event: Some(Place { stream, version, position, name: event.data.name.to_string() }), ..self }
    }
}

/// Runs the code of a user that takes in one event; whatever it does is told with the event.
pub(crate) fn at<T>(event: &Recorded<Raw>, code: impl FnOnce() -> Result<T, StoreError>) -> Result<T, Failed> {
    let done = catch_unwind(AssertUnwindSafe(code)).map_err(|panic| Failed::panicked(&*panic).at(event))?;
    done.map_err(|error| Failed::from(error).at(event))
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        use StoreError as E;
        // What is declared, what is written in `project`, how events are read: nobody mends that while this runs.
        let stops = matches!(
            error,
            E::Columns { .. }
                | E::NotBuilt { .. }
                | E::Row { .. }
                | E::Unreadable { .. }
                | E::Invalid(Invalid::Name { .. } | Invalid::TooLarge { .. })
        );
        match error {
            E::Stopped { reason, .. } => Self { event: None, reason, stops: true },
            error => Self { event: None, reason: error.into(), stops },
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(event) = &self.event {
            write!(f, "{event}: ")?;
        }
        write!(f, "{}", Chain(&*self.reason))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, version, position, name } = self;
        write!(f, "event {version} of stream {stream} (`{name}`, position {position})")
    }
}

impl Error for Failed {}
