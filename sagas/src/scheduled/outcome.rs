//! What the log says of a scheduled command: its events, or an event in their place that says why there are none. Both
//! are recorded under the id of the command, so the log has one of them.

use eventstore_core::{
    Expected, Position, Store, StoreError,
    process::{Mark, stream_of},
};
use uuid::Uuid;

use super::names::NAME;

/// What became of a scheduled command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was executed, and its last event is at a position.
    Executed(Position),
    /// It was executed, and there was nothing to do.
    Nothing,
    /// A rule has refused it, in these words.
    Refused(String),
    /// It was cancelled.
    Cancelled,
}

/// The place of an event that says that a command was cancelled.
const CANCELLED: &str = "cancelled";

impl Outcome {
    /// Records what became of a command that recorded nothing. Returns `false` if something else is recorded already.
    pub async fn record(self, store: &Store, id: &str, command: Uuid) -> Result<bool, StoreError> {
        let (place, refused) = match self {
            Self::Executed(_) => return Ok(true),
            Self::Nothing => ("", None),
            Self::Refused(words) => ("", Some(words)),
            Self::Cancelled => (CANCELLED, None),
        };
        let mark = Mark { place: place.into(), refused };
        match store.append(stream_of(NAME, id), Expected::Any, [mark]).command_id(command).await {
            Ok(_) => Ok(true),
            Err(StoreError::Duplicate { .. } | StoreError::Reused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Returns what is recorded of a command; `None` if that is nothing.
pub async fn outcome_of(store: &Store, id: &str, command: Uuid) -> Result<Option<Outcome>, StoreError> {
    let found = store.as_ref().find(command).await?;
    let (Some(first), Some(last)) = (found.first(), found.last()) else { return Ok(None) };
    if first.stream != stream_of(NAME, id) || *first.data.name != *Mark::NAME {
        return Ok(Some(Outcome::Executed(last.position)));
    }
    let marks = first.decode::<Mark>().map_err(|source| StoreError::unreadable(first, source))?;
    let Some(mark) = marks.into_iter().next().map(|mark| mark.data) else { return Ok(None) };
    Ok(Some(match mark.refused {
        _ if mark.place == CANCELLED => Outcome::Cancelled,
        Some(words) => Outcome::Refused(words),
        None => Outcome::Nothing,
    }))
}
