//! Spans of what a caller does, for `tracing`: `execute`, `load` and `append`, at level debug. No span has a key, a body or an
//! actor in it.

use tracing::{Span, debug_span, field::Empty};

use crate::{
    contract::{Append, Written},
    error::{CommandError, StoreError},
    stream::StreamId,
};

/// A command is executed: `aggregate` is the category that its events go to; `outcome` and `attempts` come at the end.
pub(crate) fn execute(stream: &StreamId) -> Span {
    debug_span!("execute", aggregate = stream.category(), outcome = Empty, attempts = Empty)
}

/// A state is folded.
pub(crate) fn load(stream: &StreamId) -> Span {
    debug_span!("load", aggregate = stream.category())
}

/// Events are sent to the store.
pub(crate) fn append(append: &Append) -> Span {
    let span = debug_span!("append", streams = append.writes.len(), events = Empty, outcome = Empty);
    if !span.is_disabled() {
        span.record("events", append.events().count());
    }
    span
}

/// What came of an append, in one word.
pub(crate) fn of_append(written: &Result<Written, StoreError>) -> &'static str {
    match written {
        Ok(written) if written.replayed => "replayed",
        Ok(_) => "recorded",
        Err(error) => of_error(error),
    }
}

/// What came of a command, in one word; `events` is how many it recorded.
pub(crate) fn of_command<E>(answer: &Result<usize, &CommandError<E>>) -> &'static str {
    match answer {
        Ok(0) => "nothing",
        Ok(_) => "recorded",
        Err(CommandError::Rejected(_)) => "refused",
        Err(CommandError::Conflict(_)) => "conflict",
        Err(CommandError::Store(error)) => of_error(error),
    }
}

fn of_error(error: &StoreError) -> &'static str {
    match error {
        StoreError::Conflict(_) => "conflict",
        StoreError::Busy(_) => "busy",
        StoreError::Unknown(_) => "unknown",
        StoreError::Unavailable(_) => "unavailable",
        error if error.is_refusal() => "refused",
        _ => "error",
    }
}
