//! What is written down about projections besides their rows and checkpoints: what they are to do, and whether what they
//! build is whole.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

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
}

impl ProjectionRow {
    /// One that begins, with a log that ends there.
    pub fn new(now: Timestamp, target: Position) -> Self {
        let (state, target) = ("active".into(), target.0);
        Self { state, reason: None, since: now, target, built_at: None, promoted_at: None, pace: None }
    }
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
        let rows = self.inner().rows(Rows::Keys { table: PROJECTIONS, keys: vec![name.clone()] }).await;
        let rows = match rows {
            Err(StoreError::NotBuilt { .. }) => return Ok(()),
            rows => rows?,
        };
        let row = rows.first().and_then(|(_, row)| serde_json::from_str::<ProjectionRow>(row.get()).ok());
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
