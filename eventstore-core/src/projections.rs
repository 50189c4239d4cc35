//! What is written down about projections besides their rows and checkpoints: what they are to do, and whether what they
//! build is whole.

use std::{
    error::Error,
    sync::{Arc, PoisonError},
};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    error::StoreError,
    handle::Store,
    known::{Build, Run},
    stream::Position,
    table::{Column, Kind, Rows, Table},
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

/// What says whether a table is whole: no more columns than a table of release 0.1 has, so that a program that only reads
/// needs no other part of the program to add the others.
const WHOLE: Table = Table {
    columns: &[
        Column::new("since", Kind::Time),
        Column::new("target", Kind::Integer),
        Column::new("built_at", Kind::Time),
    ],
    ..PROJECTIONS
};

/// How often a read begins again, since its table was exchanged meanwhile.
const READS: usize = 3;

impl Store {
    /// For a runner: this projection runs here, and this holds it up.
    #[doc(hidden)]
    pub fn runs(&self, projection: &str, reason: Option<Arc<dyn Error + Send + Sync>>, stopped: bool) {
        self.running().all().insert(projection.into(), Run { reason, stopped });
    }

    /// For a runner: this projection runs here no more.
    #[doc(hidden)]
    pub fn runs_no_more(&self, projection: &str) {
        self.running().all().remove(projection);
    }

    /// What is known of a projection, if this process runs it.
    pub(crate) fn run(&self, projection: &str) -> Option<Run> {
        self.running().all().get(projection).cloned()
    }
}

impl Store {
    /// Reads rows of a read model, all of one build, which is whole. What is not whole is [`StoreError::Building`].
    ///
    /// A build that was whole before the read and is still there after it was whole all the time, so a read of a table that is
    /// known to be whole is followed by one look, and not preceded by one.
    pub(crate) async fn read_whole<'a, T>(
        &self,
        table: &Table,
        read: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let name = table.to_string();
        let known = || self.whole().0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known().get(&name).copied();
        let mut before = match before {
            Some(before) => before,
            None => self.build(table, None).await?,
        };
        for _ in 0..READS {
            let found = read().await;
            let after = match self.build(table, before).await {
                Ok(after) => after,
                Err(error) => {
                    known().remove(&name);
                    return Err(error);
                }
            };
            known().insert(name.clone(), after);
            if after == before {
                return found;
            }
            before = after;
        }
        Err(StoreError::Busy(format!("the table of `{name}` was exchanged while it was read").into()))
    }

    /// The build that the table of a read model is now. Refuses one that has not yet come to where the log ended when it
    /// began, unless it is the one that was whole before.
    async fn build(&self, table: &Table, whole: Option<Build>) -> Result<Option<Build>, StoreError> {
        let name = table.to_string();
        let rows = self.inner().rows(Rows::Keys { table: WHOLE, keys: vec![name.clone()] }).await;
        let rows = match rows {
            Err(StoreError::NotBuilt { .. }) => return Ok(None),
            rows => rows?,
        };
        // Where nothing is said of it, its table says what there is.
        let Some(build) = rows.first().and_then(|(_, row)| serde_json::from_str::<Build>(row.get()).ok()) else {
            return Ok(None);
        };
        if build.built_at.is_some() || Some(build) == whole {
            return Ok(Some(build));
        }
        let (at, until) = (self.inner().checkpoint(&name).await?, Position(build.target));
        if at >= until {
            return Ok(Some(build));
        }
        // What stands in its way is worth more than that it is not there yet.
        let fits = self.inner().rows(Rows::Keys { table: *table, keys: vec![] }).await;
        fits.map(drop).or_else(|error| match error {
            StoreError::NotBuilt { .. } => Ok(()),
            error => Err(error),
        })?;
        match self.run(&name) {
            Some(Run { reason: Some(reason), stopped: true }) => {
                Err(StoreError::Stopped { projection: name, reason: reason.into() })
            }
            _ => Err(StoreError::Building { table: name, at, until }),
        }
    }
}
