//! What is stored of a processor besides its rows and its checkpoints: what it is to do, and whether what it builds is
//! whole.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    invalid::Invalid,
    limits::{self, PROCESSOR_BYTES},
    stream::Position,
    table::{Column, Kind, SHADOW, Table},
    timestamp::Timestamp,
};

/// The table of processors, by name.
pub const PROCESSORS: Table = Table {
    name: "projections",
    version: 0,
    columns: &[
        Column::new("state", Kind::Text),
        Column::new("reason", Kind::Text),
        Column::new("since", Kind::Time),
        Column::new("target", Kind::Integer),
        Column::new("built_at", Kind::Time),
        Column::new("promoted_at", Kind::Time),
        Column::new("pace", Kind::Integer),
        Column::optional("reads", Kind::Text),
        Column::optional("began", Kind::Integer),
        Column::optional("missed", Kind::Json),
        Column::optional("cause", Kind::Json),
        Column::optional("word", Kind::Json),
        Column::optional("kept_at", Kind::Time),
        Column::optional("instances", Kind::Text),
    ],
    shadow: false,
};

/// What a processor is to do, as it is stored: a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ProcessorState {
    /// It runs.
    Active,
    /// An operator has paused it.
    Paused,
    /// No program can run it, until it is mended or an operator resumes it.
    Failed,
    /// No node runs it: it stays for a way back.
    Kept,
    /// A word of a later release, which this one leaves as it is: a node that does not know the word does not run it.
    Later(String),
}

impl From<String> for ProcessorState {
    fn from(word: String) -> Self {
        match &*word {
            "active" => Self::Active,
            "paused" => Self::Paused,
            "failed" => Self::Failed,
            "kept" => Self::Kept,
            _ => Self::Later(word),
        }
    }
}

impl From<ProcessorState> for String {
    fn from(state: ProcessorState) -> Self {
        match state {
            ProcessorState::Active => "active".into(),
            ProcessorState::Paused => "paused".into(),
            ProcessorState::Failed => "failed".into(),
            ProcessorState::Kept => "kept".into(),
            ProcessorState::Later(word) => word,
        }
    }
}

impl fmt::Display for ProcessorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from(self.clone()))
    }
}

/// A row of the table of processors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessorRow {
    /// What it is to do.
    pub state: ProcessorState,
    /// Why it has the state.
    pub reason: Option<String>,
    /// Since when it has the state.
    pub since: Timestamp,
    /// The end of the log when it began. Up to there, its rows are not whole.
    pub target: u64,
    /// When its rows were whole for the first time.
    pub built_at: Option<Timestamp>,
    /// When it was last promoted: readers of plain SQL see its rows.
    pub promoted_at: Option<Timestamp>,
    /// The number of events that it may process in a second, if limited.
    pub pace: Option<u64>,
    /// The fingerprint of the set of events that it reads; none in a row of release 0.1.
    #[serde(default)]
    pub reads: Option<String>,
    /// The position after which it began; none: at the first event.
    #[serde(default)]
    pub began: Option<u64>,
    /// Events that it has passed without reading them, and must process before it goes on. The engine defines the form.
    #[serde(default)]
    pub missed: Option<Json>,
    /// Why it has failed, if that is more than a text. The engine defines the form.
    #[serde(default)]
    pub cause: Option<Json>,
    /// What an operator has decided about it. The engine defines the form.
    #[serde(default)]
    pub word: Option<Json>,
    /// When readers were last sent from it to another table: it is the way back. None: it is being built, or read.
    #[serde(default)]
    pub kept_at: Option<Timestamp>,
    /// The table of the instances of a process; none: it is no process, or no node has prepared it yet.
    #[serde(default)]
    pub instances: Option<String>,
}

impl ProcessorRow {
    /// Returns the row of an active processor that begins now, on a log that ends at `target`.
    pub fn new(now: Timestamp, target: Position) -> Self {
        let (reason, built_at, promoted_at, pace) = Default::default();
        let (reads, began, missed, cause, word, kept_at, instances) = Default::default();
        let (state, since, target) = (ProcessorState::Active, now, target.0);
        Self {
            state,
            reason,
            since,
            target,
            built_at,
            promoted_at,
            pace,
            reads,
            began,
            missed,
            cause,
            word,
            kept_at,
            instances,
        }
    }

    /// Whether its table was replaced by another, and is no build: a rollback goes back to it.
    pub fn is_way_back(&self) -> bool {
        self.kept_at.is_some() || self.state == ProcessorState::Kept
    }
}

/// Fails with [`Invalid::Name`] unless the name of a processor has 1 to 256 bytes and no control characters. Only the
/// name of a table may have an `@`, behind which it has its version, or end in `~shadow`.
pub fn check_name(name: &str, of_a_table: bool) -> Result<(), Invalid> {
    const WHAT: &str = "name of a processor";
    limits::name(WHAT, name)?;
    let reason = match name {
        _ if name.len() > PROCESSOR_BYTES => "is longer than 256 bytes",
        _ if of_a_table => return Ok(()),
        _ if name.contains('@') => "has an `@`, which only the name of a read model's table has",
        _ if name.ends_with(SHADOW) => "ends in `~shadow`, as only the name of a read model's table does",
        _ => return Ok(()),
    };
    Err(Invalid::name(WHAT, name, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_a_name_of_a_processor_is_a_text_without_a_version() {
        let long = "x".repeat(PROCESSOR_BYTES + 1);
        for name in ["", "nul\0", "two\nlines", &long, &"x".repeat(5_000)] {
            assert!(check_name(name, false).is_err() && check_name(name, true).is_err(), "{name:.20}");
        }
        for name in ["mail@2", "a@b", "@", "mail~shadow", "mail@2~shadow"] {
            assert!(check_name(name, false).is_err() && check_name(name, true).is_ok(), "{name}");
        }
        for name in ["mail", "mail/eu", "Mail to Ms. Ä", "a~b", &long[1..]] {
            assert_eq!(check_name(name, false), Ok(()), "{name}");
        }
    }

    #[test]
    fn e5_a_state_of_a_later_release_is_written_back_as_it_was_read() {
        for word in ["active", "paused", "failed", "kept", "draining", ""] {
            let state: ProcessorState = serde_json::from_value(word.into()).expect("any word is a state");
            assert_eq!(serde_json::to_value(&state).expect("a word"), word);
            assert_eq!(state.to_string(), word);
        }
        assert_eq!(ProcessorState::from("draining".to_owned()), ProcessorState::Later("draining".into()));
    }
}
