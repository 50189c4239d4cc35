//! Executes the scheduled commands that are due by the clock of the database, and deletes rows that were kept long enough.
//!
//! That a command is being executed is stored before it is executed, in a transaction that has locked the shard: of
//! executing a command that no node has claimed and cancelling it, one wins. A crash after that executes it again, under
//! the same id: it is recorded once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eventstore_core::{Changes, Comparison, Filter, Rows, Store, StoreError, Timestamp};
use eventstore_engine::{Halt, Tick};
use futures::{FutureExt, StreamExt, stream};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{
    change::written,
    executed::{Execute, Executed},
    names::NAME,
    table::{Answer, CATEGORY, Claimed, DUE, Row, ScheduledStatus, TABLE},
};
use crate::due::{self, Due, LOOK, Look};

/// To how many aggregates commands are executed at once.
const AT_ONCE: usize = 64;
/// The processor of the scheduled commands to one category.
pub struct ScheduledProcessor {
    pub category: &'static str,
    pub store: Store,
    commands: Mutex<Executed>,
}

impl ScheduledProcessor {
    pub fn new(category: &'static str, store: Store) -> Self {
        Self { category, store, commands: Mutex::default() }
    }

    /// Returns the name of the processor of a category.
    pub fn name_of(category: &str) -> String {
        format!("{NAME}:{category}")
    }

    pub fn with_commands(&self, add: impl FnOnce(&mut Executed)) {
        add(&mut self.commands());
    }

    /// Returns the commands that this program executes.
    pub fn commands(&self) -> MutexGuard<'_, Executed> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Executes what is due of a shard. Returns how long it is until the next look.
pub async fn fire(scheduled: &ScheduledProcessor, tick: &Tick<'_>) -> Result<Duration, Halt> {
    let now = scheduled.store.as_ref().time().await?;
    let due = due(scheduled, tick, now).await?;
    if due.keys.is_empty() {
        return Ok(due.pause());
    }
    let Some(claimed) = claim(scheduled, tick, due.keys, now).await? else { return Ok(LOOK) };
    let answers = execute(scheduled, claimed).await;
    answered(scheduled, tick, answers).await?;
    Ok(Duration::ZERO)
}

/// Returns the schedules of the shard with which something is to be done. Commands that this program does not execute,
/// or that only a later release can read, are passed over: a node that executes them has them.
async fn due(scheduled: &ScheduledProcessor, tick: &Tick<'_>, now: Timestamp) -> Result<Due, StoreError> {
    let what = |id: &str, row: &RawValue, due| match Row::read(row) {
        Ok(row) if tick.shard.has(id) && is_ours(scheduled, &row) => match due <= now {
            true => due::Row::Now,
            false => due::Row::Later,
        },
        _ => due::Row::Pass,
    };
    look_for_due(scheduled, now).run(scheduled.store.as_ref(), what).await
}

/// Whether a command to any aggregate of the category is due, or is being executed.
pub async fn is_due(scheduled: &ScheduledProcessor) -> Result<bool, StoreError> {
    let store = scheduled.store.as_ref();
    let now = store.time().await?;
    let what = |_: &str, row: &RawValue, due| match Row::read(row) {
        Ok(row) if is_ours(scheduled, &row) => match due <= now {
            true => due::Row::Now,
            false => due::Row::Later,
        },
        _ => due::Row::Pass,
    };
    look_for_due(scheduled, now).any(store, what).await
}

fn look_for_due(scheduled: &ScheduledProcessor, now: Timestamp) -> Look {
    let of_category = Filter { column: CATEGORY, comparison: Comparison::Equal(scheduled.category.into()) };
    Look { table: TABLE, due: DUE, filters: vec![of_category], now, beyond: None }
}

/// Whether this program can do what is to be done with a row.
fn is_ours(scheduled: &ScheduledProcessor, row: &Row) -> bool {
    match row.status {
        ScheduledStatus::Parked => false,
        status => status.is_over() || scheduled.commands().of(row).is_some(),
    }
}

/// Stores that commands which are due are being executed, and deletes rows that were kept long enough, in one
/// transaction. Returns the commands; `None` if there was nothing to store.
async fn claim(
    scheduled: &ScheduledProcessor,
    tick: &Tick<'_>,
    ids: Vec<String>,
    now: Timestamp,
) -> Result<Option<Vec<Claimed>>, Halt> {
    let (mut transaction, _) = tick.fence.open().await?;
    // Callers change rows under this lock alone.
    transaction.hold(vec![], None).await?;
    let rows = transaction.rows(Rows::Keys { table: TABLE, keys: ids }).await?;
    let (mut claimed, mut deletes) = (vec![], vec![]);
    for (id, row) in rows {
        let Ok(mut row) = Row::read(&row) else { continue };
        // It may have been changed since it was found.
        if row.due.is_none_or(|due| due > now.as_micros()) || !is_ours(scheduled, &row) {
            continue;
        }
        if row.is_kept_no_longer(now) {
            deletes.push(id);
            continue;
        }
        let before = row.claimed;
        row.claim(now);
        claimed.push(Claimed { id, row, before });
    }
    let rows = claimed.iter().map(|claimed| (claimed.id.clone(), claimed.row.clone())).collect();
    let changes = Changes { deletes, ..written(rows)? };
    if changes.is_empty() {
        transaction.rollback().await?;
        return Ok(None);
    }
    transaction.write(changes).await?;
    transaction.commit().await?;
    Ok(Some(claimed))
}

/// Executes commands: those to one aggregate in the order in which they are due, those to several side by side.
async fn execute(scheduled: &ScheduledProcessor, mut claimed: Vec<Claimed>) -> HashMap<String, (Uuid, Answer)> {
    claimed.sort_by(|one, other| (one.row.at, &one.id).cmp(&(other.row.at, &other.id)));
    let mut by_target = BTreeMap::<String, Vec<_>>::new();
    for claimed in claimed {
        let Some(execute) = scheduled.commands().of(&claimed.row) else { continue };
        by_target.entry(claimed.row.target.clone()).or_default().push((claimed, execute));
    }
    let runs: Vec<_> =
        by_target.into_values().map(|commands| in_order(scheduled.store.clone(), commands).boxed()).collect();
    stream::iter(runs).buffer_unordered(AT_ONCE).flat_map(stream::iter).collect().await
}

/// Executes the commands to one aggregate, one after the other.
async fn in_order(store: Store, commands: Vec<(Claimed, Execute)>) -> Vec<(String, (Uuid, Answer))> {
    let mut answers = vec![];
    for (claimed, execute) in commands {
        let (id, command) = (claimed.id.clone(), claimed.row.command_id);
        let answer = execute(store.clone(), claimed).await;
        answers.push((id, (command, answer)));
    }
    answers
}

/// Stores what came of the commands.
async fn answered(
    scheduled: &ScheduledProcessor,
    tick: &Tick<'_>,
    mut answers: HashMap<String, (Uuid, Answer)>,
) -> Result<(), Halt> {
    if answers.is_empty() {
        return Ok(());
    }
    let now = scheduled.store.as_ref().time().await?;
    let (mut transaction, _) = tick.fence.open().await?;
    transaction.hold(vec![], None).await?;
    let keys = answers.keys().cloned().collect();
    let rows = transaction.rows(Rows::Keys { table: TABLE, keys }).await?;
    let mut changed = vec![];
    for (id, row) in rows {
        let (Ok(mut row), Some((command, answer))) = (Row::read(&row), answers.remove(&id)) else { continue };
        if row.command_id == command {
            if let Answer::Failed(reason) = &answer {
                tracing::debug!(id, command = row.command, reason, "a scheduled command has failed");
            }
            row.answered(answer, now);
            changed.push((id, row));
        }
    }
    transaction.write(written(changed)?).await?;
    Ok(transaction.commit().await?)
}
