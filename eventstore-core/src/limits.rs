//! The limits of every store, and their checks, which run before anything is sent.

use crate::invalid::Invalid;

/// The longest category, key, event name, tag name and tag key, in bytes of UTF-8.
pub const NAME_BYTES: usize = 512;
/// The longest name of a processor, in bytes of UTF-8: it is a part of other names.
pub const PROCESSOR_BYTES: usize = 256;
/// The largest body of one event, in bytes.
pub const BODY_BYTES: usize = 16 << 20;
/// The largest metadata of one event, in bytes of JSON.
pub const METADATA_BYTES: usize = 64 << 10;
/// The most tags of one event.
pub const TAGS: usize = 128;
/// The most event types of one log: pairs of a category and an event name.
pub const TYPES: usize = 10_000;
/// The most events of one append.
pub const EVENTS: usize = 1 << 18;
/// The largest bodies, tags and metadata of one append together, in bytes.
pub const APPEND_BYTES: usize = 256 << 20;
/// The most values that the filters of one list of rows compare with, together.
pub const COMPARED_VALUES: usize = 10_000;
/// The most filters of one list of rows.
pub const FILTERS: usize = 256;
/// The most commands and timers in the reaction of a process to one event.
pub const COMMANDS: usize = 10_000;
/// How deep alternatives, successors and timers may be nested in a reaction.
pub const DEPTH: usize = 64;
/// The most timers one instance of a process has.
pub const TIMERS: usize = 1_000;
/// The largest state of one instance of a process with its timers, in bytes.
pub const INSTANCE_BYTES: usize = 1 << 20;

/// Fails with [`Invalid::Name`] unless a name has 1 to 512 bytes and no control characters.
#[doc(hidden)]
pub fn name(what: &'static str, text: &str) -> Result<(), Invalid> {
    let reason = match text.len() {
        0 => "is empty",
        len if len > NAME_BYTES => "is longer than 512 bytes",
        _ if text.chars().any(char::is_control) => "has a control character",
        _ => return Ok(()),
    };
    Err(Invalid::name(what, text, reason))
}

/// Checks the name of an event to be stored. Names that begin with `$` are reserved for the log.
pub(crate) fn event_name(text: &str) -> Result<(), Invalid> {
    name("event name", text)?;
    if text.starts_with('$') { Err(Invalid::name("event name", text, "begins with `$`")) } else { Ok(()) }
}

/// Fails with [`Invalid::Name`] unless a name has only `a-z`, `0-9`, `_` and `.`.
#[doc(hidden)]
pub fn plain(what: &'static str, text: &str) -> Result<(), Invalid> {
    name(what, text)?;
    if text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.')) {
        return Ok(());
    }
    Err(Invalid::name(what, text, "may only contain a-z, 0-9, `_` and `.`"))
}

pub(crate) fn size(what: &'static str, size: usize, limit: usize) -> Result<(), Invalid> {
    if size > limit { Err(Invalid::TooLarge { what, size, limit }) } else { Ok(()) }
}

impl Invalid {
    /// Returns the error of an append after which the log would have more event types than
    /// [`TYPES`](crate::limits::TYPES).
    pub fn types(size: usize) -> Self {
        Self::TooLarge { what: "the event types of a log", size, limit: TYPES }
    }
}
