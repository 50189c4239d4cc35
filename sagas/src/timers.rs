//! Fires the timers of instances that are due by the clock of the database, and deletes instances that are over and were
//! kept long enough.
//!
//! What has fired is stored before anything is sent, in a transaction that has locked the shard: of firing a timer and
//! cancelling it, one wins.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use eventstore_core::{
    Changes, Rows, StoreError, Timestamp,
    process::{FIRING, Item, Process, StoredInstance, TimerId, Turn, Unreadable, begin_undo, end, open},
};
use eventstore_engine::{Halt, Parked, Tick};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    answers::{Answers, perform},
    due::{Due, LOOK, Look, Row},
    table::{self, DUE},
};

/// An instance, and those of its timers that have fired and are to be answered.
struct Fired {
    row: StoredInstance,
    timers: Vec<TimerId>,
    /// Whether the instance was parked, and an operator has asked for another try.
    again: bool,
}

/// Fires what is due of a shard. Returns how long it is until the next look.
pub async fn fire<P: Process>(answers: &Answers<P>, tick: &Tick<'_>) -> Result<Duration, Halt> {
    let now = answers.store.as_ref().time().await?;
    let due = due(answers, tick, now).await?;
    if due.keys.is_empty() {
        return Ok(due.pause());
    }
    match claim(answers, tick, due.keys, now).await? {
        Some(fired) => answer(answers, tick, fired).await?,
        None => return Ok(LOOK),
    }
    Ok(Duration::ZERO)
}

/// Whether a timer or an operator's request of any instance is due, or is being answered. Those of an instance that is
/// parked wait.
pub async fn is_due<P: Process>(answers: &Answers<P>, parked: &Parked) -> Result<bool, StoreError> {
    let now = answers.store.as_ref().time().await?;
    let look = Look { table: answers.table, due: DUE, filters: vec![], now, beyond: Some(FIRING) };
    let what = |key: &str, row: &RawValue, due| match readable(answers, key, row) {
        _ if parked.has_key(key) => Row::Pass,
        Some(row) if due <= now || row.is_firing() => Row::Now,
        Some(_) => Row::Later,
        None => Row::Pass,
    };
    look.any(answers.store.as_ref(), what).await
}

/// Returns the instances of the shard that are due. Those that are parked are passed over: their answer is half given.
/// So are those of a later release: a node of it has their timers fire.
async fn due<P: Process>(answers: &Answers<P>, tick: &Tick<'_>, now: Timestamp) -> Result<Due, StoreError> {
    // What another node has claimed and not answered is due at once.
    let beyond = tick.again.then_some(FIRING);
    let look = Look { table: answers.table, due: DUE, filters: vec![], now, beyond };
    let what = |key: &str, row: &RawValue, due| {
        if !tick.shard.has(key) || tick.parked.has_key(key) {
            return Row::Pass;
        }
        match readable(answers, key, row) {
            None => Row::Pass,
            Some(mut row) => match due <= now || (tick.again && row.reclaim(now)) {
                true => Row::Now,
                false => Row::Later,
            },
        }
    };
    look.run(answers.store.as_ref(), what).await
}

/// Reads a row; `None` if only a later release can read it or its state.
fn readable<P: Process>(answers: &Answers<P>, key: &str, row: &RawValue) -> Option<StoredInstance> {
    let read = table::read(&answers.table, key, row).map_err(|error| error.to_string());
    let read = read.and_then(|row| match open(&*answers.process, &row) {
        Err(Unreadable { reason, later: true }) => Err(reason),
        // A state that no release can read is reported by the turn.
        _ => Ok(row),
    });
    let waits = |reason| tracing::debug!(process = answers.process.name(), key, reason, "its timers wait");
    read.map_err(waits).ok()
}

/// Stores that the timers which are due have fired, and deletes instances that were kept long enough, in one
/// transaction. Returns `None` if there was nothing to store.
async fn claim<P: Process>(
    answers: &Answers<P>,
    tick: &Tick<'_>,
    keys: Vec<String>,
    now: Timestamp,
) -> Result<Option<Vec<Fired>>, Halt> {
    let over = forget(answers, &keys, now).await?;
    let (mut transaction, _) = tick.fence.open().await?;
    let rows = transaction.rows(Rows::Keys { table: answers.table, keys }).await?;
    let mut changes = Changes { table: answers.table, upserts: vec![], deletes: vec![] };
    let mut fired = vec![];
    for (key, row) in rows {
        let Some(mut row) = readable(answers, &key, &row) else { continue };
        if tick.again {
            row.reclaim(now);
        }
        if over.contains(&key) {
            changes.deletes.push(key);
            continue;
        }
        let changed = begin_undo(&mut row);
        let again = row.is_asked_again();
        let timers = if again { row.claim_again(now) } else { row.claim(now) };
        if changed || again || !timers.is_empty() {
            changes.upserts.push((key, table::written(&answers.table, &row)?));
        }
        if again || !timers.is_empty() {
            fired.push(Fired { row, timers, again });
        }
    }
    if changes.is_empty() {
        transaction.rollback().await?;
        return Ok(None);
    }
    transaction.write(changes).await?;
    transaction.commit().await?;
    Ok(Some(fired))
}

/// Returns the instances that are over and were kept long enough. Records that they are over, before their rows go, so
/// that no instance with such a key begins again. In no transaction: an append must not wait for one of this task. What
/// is over stays so, whichever node finds it.
async fn forget<P: Process>(
    answers: &Answers<P>,
    keys: &[String],
    now: Timestamp,
) -> Result<HashSet<String>, StoreError> {
    let rows = answers.store.as_ref().rows(Rows::Keys { table: answers.table, keys: keys.to_vec() }).await?;
    let mut over = HashSet::new();
    for (key, row) in rows {
        // A row that cannot be read is not this program's to delete.
        let Ok(row) = table::read(&answers.table, &key, &row) else { continue };
        if row.is_forgotten(now) {
            end(&answers.store, answers.process.name(), &row).await?;
            over.insert(key);
        }
    }
    Ok(over)
}

/// Has the instances answer what has fired, and writes the result.
async fn answer<P: Process>(answers: &Answers<P>, tick: &Tick<'_>, fired: Vec<Fired>) -> Result<(), Halt> {
    if fired.is_empty() {
        return Ok(());
    }
    let events = armed_by(answers, &fired).await?;
    let turns = fired.into_iter().map(|Fired { row, timers, again }| {
        let items = timers.into_iter().map(|id| {
            let timer = row.timers.iter().find(|timer| timer.id() == id);
            let event = timer.and_then(|timer| events.get(&(timer.event, timer.part))).cloned();
            Item::Timer(id, event)
        });
        // A plan goes on with the event that began it.
        let began = row.plan.as_ref().filter(|plan| again && !plan.over);
        let began = began.and_then(|plan| events.get(&(plan.event, plan.part))).cloned();
        let (key, items): (_, Vec<_>) = (row.key.clone(), items.chain(began.map(Item::Retry)).collect());
        Turn::new(&answers.process, &key, Some(row), items, false, answers.terms())
    });
    let mut changes = Changes { table: answers.table, upserts: vec![], deletes: vec![] };
    for result in perform(&answers.store, turns.collect()).await? {
        table::add(&mut changes, result.key, result.change)?;
    }
    if changes.is_empty() {
        return Ok(());
    }
    let (mut transaction, _) = tick.fence.open().await?;
    transaction.write(changes).await?;
    Ok(transaction.commit().await?)
}

type Armed<E> = HashMap<(Uuid, u32), eventstore_core::Recorded<E>>;

/// Returns the events that have armed the timers or begun the plans, as far as this program can read them.
async fn armed_by<P: Process>(answers: &Answers<P>, fired: &[Fired]) -> Result<Armed<P::Event>, StoreError> {
    let timers =
        fired.iter().flat_map(|fired| fired.row.timers.iter().filter(|timer| fired.timers.contains(&timer.id())));
    let plans = fired.iter().filter(|fired| fired.again).filter_map(|fired| fired.row.plan.as_ref());
    let mut ids: Vec<_> = timers.map(|timer| timer.event).chain(plans.map(|plan| plan.event)).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut events = HashMap::new();
    for raw in answers.store.as_ref().recorded(ids).await? {
        // The turn reports an event that cannot be read: it parks the timer.
        let Ok(parts) = raw.decode::<P::Event>() else { continue };
        events.extend(parts.into_iter().zip(0..).map(|(event, part)| ((raw.id, part), event)));
    }
    Ok(events)
}
