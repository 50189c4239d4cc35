//! Why an event could not be written or read.

use std::sync::Arc;

/// An event could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The event type (the second field) has no event of the name (the first): the event is of another type, or newer
    /// than this program. `#[event(retired("…"))]` names an event that means nothing any more, and
    /// `#[event(others(…))]` another event type of this program whose events do not matter here.
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
    /// The body is larger than [`BODY_BYTES`](crate::limits::BODY_BYTES); the field is a lower bound of its size in
    /// bytes.
    #[error("its body is larger than the limit: {0} bytes or more")]
    TooLarge(usize),
    /// The body holds NaN or an infinity, which JSON cannot express.
    #[error("a number in it is not finite")]
    NotFinite,
    /// The event can be written, but its stored form could not be read back.
    #[error("what it is written as cannot be read back: {0}")]
    OneWay(String),
    /// The metadata stored beside the body is not readable.
    #[error("its metadata cannot be read: {0}")]
    Metadata(serde_json::Error),
    /// A stored part of the event breaks the rules of a log: the name of its stream, its tags, its metadata, or a type
    /// that does not exist. Something other than this library wrote the event.
    #[error("what is stored of it breaks the rules: {0}")]
    Damaged(Arc<str>),
}
