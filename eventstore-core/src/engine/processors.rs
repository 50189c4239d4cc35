//! What is stored of a processor besides its rows and its checkpoints: what it is to do, and whether what it builds is
//! whole.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    stream::Position,
    table::{Column, Kind, Table},
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
}

impl ProcessorRow {
    /// Returns the row of an active processor that begins now, on a log that ends at `target`.
    pub fn new(now: Timestamp, target: Position) -> Self {
        let (reason, built_at, promoted_at, pace) = Default::default();
        let (reads, began, missed, cause, word, kept_at) = Default::default();
        let (state, since, target) = (ProcessorState::Active, now, target.0);
        Self { state, reason, since, target, built_at, promoted_at, pace, reads, began, missed, cause, word, kept_at }
    }

    /// Whether its table was replaced by another, and is no build: a rollback goes back to it.
    pub fn is_way_back(&self) -> bool {
        self.kept_at.is_some() || self.state == ProcessorState::Kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
