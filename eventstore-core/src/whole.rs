//! Reads of the rows of a read model that refuse a table which is not built yet.

use std::{
    error::Error,
    sync::{Arc, PoisonError},
};

use futures::future::BoxFuture;

use crate::{
    engine::processors::PROCESSORS,
    error::StoreError,
    known::{Build, Run},
    store::Store,
    stream::Position,
    table::{Column, Kind, Rows, Table},
};

/// The columns of [`PROCESSORS`] that say whether a table is whole. A table of release 0.1 has all of them, so that a
/// program that only reads needs no node to add the others.
const WHOLE: Table = Table {
    columns: &[
        Column::new("since", Kind::Time),
        Column::new("target", Kind::Integer),
        Column::new("built_at", Kind::Time),
    ],
    ..PROCESSORS
};

/// How often a read begins again because its table was exchanged meanwhile.
const READS: usize = 3;

impl Store {
    /// For a runner: notes that this process runs a processor, what holds the processor up, and whether it has given
    /// up.
    #[doc(hidden)]
    pub fn mark_running(&self, projection: &str, reason: Option<Arc<dyn Error + Send + Sync>>, stopped: bool) {
        self.running().all().insert(projection.into(), Run { reason, stopped });
    }

    /// For a runner: notes that this process no longer runs a processor.
    #[doc(hidden)]
    pub fn mark_stopped(&self, projection: &str) {
        self.running().all().remove(projection);
    }

    /// Returns what is known of a processor, if this process runs it.
    pub(crate) fn run(&self, projection: &str) -> Option<Run> {
        self.running().all().get(projection).cloned()
    }
}

impl Store {
    /// Reads rows of a read model, all of one whole build. If the build is not whole, it fails with
    /// [`StoreError::Stopped`] where this process has given the read model up, else with [`StoreError::Building`]. It
    /// fails with [`StoreError::Busy`] if the table was exchanged during each of three reads.
    ///
    /// A build that was whole before the read, and is still the table's after it, was whole all the time. So a read of
    /// a table that is known to be whole needs one query of its build after the rows, and none before.
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

    /// Returns the build of a read model's table; none if nothing is stored of it. Fails with [`StoreError::Building`]
    /// if the build has not reached the position at which the log ended when it began, unless it is `whole`, the build
    /// that was whole before.
    async fn build(&self, table: &Table, whole: Option<Build>) -> Result<Option<Build>, StoreError> {
        let name = table.to_string();
        let rows = self.inner().rows(Rows::Keys { table: WHOLE, keys: vec![name.clone()] }).await;
        let rows = match rows {
            Err(StoreError::NotBuilt { .. }) => return Ok(None),
            rows => rows?,
        };
        // Nothing is stored of the build: the table is what there is.
        let Some(build) = rows.first().and_then(|(_, row)| serde_json::from_str::<Build>(row.get()).ok()) else {
            return Ok(None);
        };
        if build.built_at.is_some() || Some(build) == whole {
            return Ok(Some(build));
        }
        let at = match self.inner().checkpoint(&name).await {
            // A transaction cannot read a checkpoint without a lock.
            Err(StoreError::Invalid(_)) => Position(0),
            at => at?,
        };
        let until = Position(build.target);
        if at >= until {
            return Ok(Some(build));
        }
        // An error of the table itself says more than that the build is not whole.
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
