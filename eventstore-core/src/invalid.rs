//! Errors of calls that no store can keep or answer, found before anything is sent.

use std::fmt;

/// The call asks for what no store can keep or answer; nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// A name breaks the rules for names.
    #[error("{what} `{}` {reason}", Short(name))]
    Name {
        /// What kind of name: `key`, `category`, `event name`, …
        what: &'static str,
        /// The name.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A size is over a limit of [`limits`](crate::limits).
    #[error("{what}: {size}, and the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is, in bytes or pieces; a lower bound if the writing ended at the limit.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The metadata could not be read back.
    #[error("metadata that cannot be read back: {0}")]
    Metadata(String),
    /// The parts of a request do not fit together.
    #[error("{0}")]
    Request(String),
    /// A cron schedule has an expression that is none or that never fires, a time zone that is unknown, or a name that
    /// breaks the rules for names.
    #[error("the schedule `{}` {reason}", Short(name))]
    Schedule {
        /// The name of the schedule.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A URL names no store.
    #[error("{0}")]
    Url(String),
}

impl Invalid {
    /// Returns the error for a name that breaks a rule.
    pub fn name(what: &'static str, name: &str, reason: &'static str) -> Self {
        Self::Name { what, name: name.into(), reason }
    }

    /// Returns the error of a transaction that cannot be committed because an operation in it failed or was dropped.
    pub fn unfinished() -> Self {
        Self::Request("an operation of this transaction failed or was dropped, so nothing of it is kept".into())
    }
}

/// The beginning of a name, for messages: the name may be refused for its length.
struct Short<'a>(&'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        characters.by_ref().take(40).try_for_each(|character| write!(f, "{}", character.escape_debug()))?;
        if characters.next().is_some() { f.write_str("…") } else { Ok(()) }
    }
}
