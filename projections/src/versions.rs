//! Versions of a read model: which of them readers are sent to, and how one that was built compares with the current
//! one.

use std::time::Duration;

use eventstore_core::{Invalid, StoreError, engine::SHADOW};
use eventstore_engine::{
    Processors,
    operate::{processors::PATIENCE, rebuild::UNHELD},
    record::{
        self, PROCESSORS, ProcessorState, Row, list,
        names::{self, current, model, versions},
    },
};
use tokio::time::{Instant, sleep};

use crate::{
    compare::{Comparison, compare},
    promote::{PAUSE, Rows, check_built, counterpart, switch},
};

/// Sends readers to another version of a read model, and back; compares two of them.
///
/// A new version is a processor like any other, with a table and a checkpoint of its own. A table that is built again
/// is built in a shadow, under another name, by the same code; then the two change names. Readers of plain SQL find the
/// current version under a name that stays, `"balance@current"`.
///
/// On [`Processors`], and so on a [`Running`](eventstore_engine::Running) runner.
pub trait ReadModelVersions {
    /// Sends all readers to what was built, at once: a rebuilt table takes the place of the current one, and plain SQL
    /// finds a new version under `"balance@current"`. The table that was read before is kept, for
    /// [`rollback`](Self::rollback). No row is older afterwards than before.
    ///
    /// [`StoreError::Building`] if it is not built yet. [`StoreError::Parked`] if rows would be older: keys are parked
    /// in it behind an event, and in the table that is read now they are not parked, or only behind a later event. The
    /// error lists the keys: retry or skip the events they wait for, or call [`promote_anyway`](Self::promote_anyway).
    /// [`StoreError::Behind`] if it does not come to the position of the current table within about 30 seconds, or is
    /// not active. [`StoreError::Busy`] if its shards are being changed, or a reader holds the table for that long.
    /// [`Invalid::Request`] if nothing is built, or if the name may stand for several builds.
    fn promote(&self, name: &str) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// As [`promote`](Self::promote), but never [`StoreError::Parked`]: the rows of keys that are parked may be older
    /// than before, or missing, until their events are retried.
    fn promote_anyway(&self, name: &str) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Sends readers back to what they read before the last [`promote`](Self::promote). This is the table that was
    /// replaced, once it has processed what was recorded since; or else the version before, which a node must still
    /// run.
    ///
    /// [`StoreError::Parked`] and [`StoreError::Behind`] as for [`promote`](Self::promote). [`Invalid::Request`] if
    /// there is nothing to go back to.
    fn rollback(&self, name: &str) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// As [`rollback`](Self::rollback), but never [`StoreError::Parked`]: the rows of keys that are parked may be older
    /// than before, or missing, until their events are retried.
    fn rollback_anyway(&self, name: &str) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Compares the table that was built with the one that readers are sent to, row by row, each row at one position of
    /// the log. `name` is the table that was built, `balance@2`, or the model, `balance`, if there is one such table.
    /// In the answer, `live` is the table that is read, and `other` the one that was built.
    ///
    /// Both are kept up to date meanwhile. A row that differs is compared again once both are at one position: for 1
    /// second as they run, then for up to 10 seconds with their shards held there. A row for which they were not,
    /// because no node runs one of the two, is counted as moving.
    ///
    /// Two versions are compared in the columns they both have. [`StoreError::Building`] if the other table is not
    /// built yet. [`StoreError::Busy`] if shards had to be held while they were being changed. [`Invalid::Request`] if
    /// nothing was built, or if the name may stand for several builds.
    fn compare(&self, name: &str) -> impl Future<Output = Result<Comparison, StoreError>> + Send;
}

impl ReadModelVersions for Processors {
    async fn promote(&self, name: &str) -> Result<(), StoreError> {
        promote_with(self, name, Rows::Complete).await
    }

    async fn promote_anyway(&self, name: &str) -> Result<(), StoreError> {
        promote_with(self, name, Rows::Any).await
    }

    async fn rollback(&self, name: &str) -> Result<(), StoreError> {
        rollback_with(self, name, Rows::Complete).await
    }

    async fn rollback_anyway(&self, name: &str) -> Result<(), StoreError> {
        rollback_with(self, name, Rows::Any).await
    }

    async fn compare(&self, name: &str) -> Result<Comparison, StoreError> {
        compare(self, name).await
    }
}

async fn promote_with(processors: &Processors, name: &str, rows: Rows) -> Result<(), StoreError> {
    let known = processors.known().await?;
    let (current, to) = counterpart(&known, name)?;
    processors.store().as_ref().create(&PROCESSORS).await?;
    check_built(processors, &known, &to).await?;
    arrive(processors, current.as_deref(), &to, rows).await
}

/// Switches as soon as no shard of `to` is behind the table that is read. Where events come so fast that this never is
/// so, both are held at one position for a moment. [`StoreError::Behind`] if that does not help.
async fn arrive(processors: &Processors, current: Option<&str>, to: &str, rows: Rows) -> Result<(), StoreError> {
    match switch_in(processors, current, to, rows, UNHELD).await {
        Ok(true) => return Ok(()),
        Ok(false) | Err(StoreError::Busy(_)) => {}
        Err(error) => return Err(error),
    }
    let from = to.strip_suffix(SHADOW).or(current.filter(|current| *current != to));
    let behind = async |why: String| -> Result<(), StoreError> {
        let at = processors.store().as_ref().checkpoint(to).await?;
        let until = processors.store().as_ref().checkpoint(from.unwrap_or(to)).await?;
        Err(StoreError::Behind { projection: to.into(), at, until, reason: Some(why.into()) })
    };
    if let Some(row) = processors.known().await?.get(to).filter(|row| row.state != ProcessorState::Active) {
        return behind(format!("it is {}", row.state)).await;
    }
    let names: Vec<_> = from.into_iter().chain([to]).collect();
    if processors.held(&names, switch_in(processors, current, to, rows, PATIENCE)).await? {
        return Ok(());
    }
    behind("it does not come to where the other one is".into()).await
}

/// Tries to switch for `patience`. Returns whether it did. [`StoreError::Busy`] if the last try was.
async fn switch_in(
    processors: &Processors,
    current: Option<&str>,
    to: &str,
    rows: Rows,
    patience: Duration,
) -> Result<bool, StoreError> {
    let start = Instant::now();
    loop {
        match switch(processors.store().as_ref(), current, to, rows).await {
            Ok(true) => {
                processors.wake_node();
                return Ok(true);
            }
            Ok(false) if start.elapsed() > patience => return Ok(false),
            Err(error @ StoreError::Busy(_)) if start.elapsed() > patience => return Err(error),
            Err(StoreError::Busy(_)) => {
                let known = processors.known().await?;
                let read = names::current(&known, model(to));
                if read.is_some() && read != current {
                    return Err(
                        Invalid::Request(format!("readers were sent to {} meanwhile", list(read.as_slice()))).into()
                    );
                }
                sleep(PAUSE).await;
            }
            Ok(false) => sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

async fn rollback_with(processors: &Processors, name: &str, with: Rows) -> Result<(), StoreError> {
    let rows = processors.known().await?;
    processors.store().as_ref().create(&PROCESSORS).await?;
    let model = model(name);
    let nothing = || Invalid::Request(format!("`{name}` has nothing to go back to"));
    let now = current(&rows, model).ok_or_else(nothing)?;
    let shadow = format!("{now}{SHADOW}");
    if rows.get(&shadow).is_some_and(Row::is_way_back) {
        let (head, at) = (processors.store().head().await?, processors.store().as_ref().now());
        let again = |row: &mut Row| {
            // Another operator may have begun it meanwhile.
            if row.state == ProcessorState::Kept {
                record::turn_to(row, ProcessorState::Active, None, at);
                row.target = head.0;
                row.kept_at = row.kept_at.or(Some(at));
            }
        };
        record::update(processors.store().as_ref(), &shadow, again).await?;
        processors.wake_node();
        return arrive(processors, Some(now), &shadow, with).await;
    }
    let before = versions(&rows, model).filter(|(version, _)| *version != now);
    let before = before.filter_map(|(version, row)| Some((row.promoted_at?, version))).max();
    let (_, before) = before.ok_or_else(nothing)?;
    arrive(processors, Some(now), before, with).await
}
