//! Why a command was not recorded.

use super::{conflict::Conflict, store::StoreError};

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
    /// The rule refused the command, in the words of the domain. Over HTTP, 422.
    #[error(transparent)]
    Rejected(R),
    /// Other appends came first at every attempt. The caller may try again. Over HTTP, 409.
    #[error(transparent)]
    Conflict(Conflict),
    /// The store failed. Over HTTP, 503 if the same command may succeed later, else 500.
    #[error(transparent)]
    Store(StoreError),
}

impl<R> CommandError<R> {
    /// Whether other appends came first.
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
