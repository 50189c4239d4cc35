//! Why an event could not be written or read.

use std::sync::Arc;

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
    /// What the store has of it breaks the rules of a log: the name of its stream, its tags, its metadata, or a type
    /// that is not there. Something other than this library wrote it.
    #[error("what is stored of it breaks the rules: {0}")]
    Damaged(Arc<str>),
}
