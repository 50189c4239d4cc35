//! What is stored of a processor besides its rows and its checkpoints: what it is to do, and whether what it builds is
//! whole.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    stream::Position,
    table::{Column, Kind, Table},
    timestamp::Timestamp,
};

/// The table of what is known of projections, by name.
pub const PROJECTIONS: Table = Table {
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
    ],
    shadow: false,
};

/// What is known of a projection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectionRow {
    /// `active`, `paused`, `failed`; `kept`: it is there for a way back, and no node runs it.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// Where the log ended when it began: before that it is not whole.
    pub target: u64,
    /// When it was whole for the first time.
    pub built_at: Option<Timestamp>,
    /// When readers of plain SQL were sent to it last.
    pub promoted_at: Option<Timestamp>,
    /// How many events it may process in a second, if that is limited.
    pub pace: Option<u64>,
    /// The fingerprint of the set of events it was processed with; none in a row of release 0.1.
    #[serde(default)]
    pub reads: Option<String>,
    /// After which position it began; none: at the first event.
    #[serde(default)]
    pub began: Option<u64>,
    /// Events it has passed without reading them, and is to process before it goes on. What is in it, the engine says.
    #[serde(default)]
    pub missed: Option<Json>,
    /// Why it has failed, where that is more than a text. What is in it, the engine says.
    #[serde(default)]
    pub cause: Option<Json>,
    /// What an operator has said is to be done with it. What is in it, the engine says.
    #[serde(default)]
    pub word: Option<Json>,
}

impl ProjectionRow {
    /// One that begins, with a log that ends there.
    pub fn new(now: Timestamp, target: Position) -> Self {
        let (reason, built_at, promoted_at, pace) = Default::default();
        let (reads, began, missed, cause, word) = Default::default();
        let (state, since, target) = ("active".into(), now, target.0);
        Self { state, reason, since, target, built_at, promoted_at, pace, reads, began, missed, cause, word }
    }
}
