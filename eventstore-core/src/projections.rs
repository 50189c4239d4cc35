//! What is written down about projections besides their rows and checkpoints: what they are to do, and whether what they
//! build is whole.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    error::StoreError,
    handle::Store,
    runs::Run,
    store::Rows,
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
    /// `active`, `paused`, `failed`; `kept`: it is there for a way back, and nobody runs it.
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
    /// How many events it may take in in a second, if that is limited.
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

/// What says whether a table is whole: no more columns than a table of release 0.1 has, so that a program that only reads
/// needs nobody to add the others.
const WHOLE: Table =
    Table { columns: &[Column::new("target", Kind::Integer), Column::new("built_at", Kind::Time)], ..PROJECTIONS };

#[derive(Deserialize)]
struct Whole {
    target: u64,
    built_at: Option<Timestamp>,
}

/// The tables that are known to be whole: they stay so.
#[derive(Default)]
pub(crate) struct Built(Mutex<HashSet<String>>);

impl Store {
    /// Refuses rows of a read model that has not yet come to where the log ended when it began.
    pub(crate) async fn built(&self, table: &Table) -> Result<(), StoreError> {
        let name = table.to_string();
        let known = || self.whole().0.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(&name) {
            return Ok(());
        }
        let rows = self.inner().rows(Rows::Keys { table: WHOLE, keys: vec![name.clone()] }).await;
        let rows = match rows {
            Err(StoreError::NotBuilt { .. }) => return Ok(()),
            rows => rows?,
        };
        let row = rows.first().and_then(|(_, row)| serde_json::from_str::<Whole>(row.get()).ok());
        // Where nothing is said of it, its table says what there is.
        let Some(row) = row else { return Ok(()) };
        if row.built_at.is_none() {
            let at = self.inner().checkpoint(&name).await?;
            if at < Position(row.target) {
                // What stands in its way is worth more than that it is not there yet.
                let fits = self.inner().rows(Rows::Keys { table: *table, keys: vec![] }).await;
                fits.map(drop).or_else(|error| match error {
                    StoreError::NotBuilt { .. } => Ok(()),
                    error => Err(error),
                })?;
                if let Some(Run { reason: Some(reason), stopped: true }) = self.run(&name) {
                    return Err(StoreError::Stopped { projection: name, reason: reason.into() });
                }
                return Err(StoreError::Building { table: name, at, until: Position(row.target) });
            }
        }
        known().insert(name);
        Ok(())
    }
}
