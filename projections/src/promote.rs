//! Sends readers to another version of a read model, or to the shadow of their table.

use std::{collections::BTreeMap, time::Duration};

use eventstore_core::{
    Checkpoint, DeadLetter, EventStore, Invalid, Position, Shard, StoreError, Table, Transaction, engine::SHADOW,
};
use eventstore_engine::{
    Processors,
    record::{
        self, PROCESSORS, ProcessorState, Row, dead_letters, list,
        names::{self, current_or_first, model, number},
    },
};
use tokio::time::sleep;

/// How often a node tries in a row to send readers to a new version that is a step behind; it tries again at the next
/// beat.
const TRIES: u32 = 20;
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// Which rows a table must have before readers are sent to it: `Complete` refuses a table with keys parked behind an
/// event that the current table has processed.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Rows {
    Complete,
    Any,
}

/// Returns the current version of the read model of `name`, and the version or shadow built next to it that `name`
/// stands for. [`Invalid::Request`] if nothing is built, or if `name` may stand for several.
pub(crate) fn counterpart(rows: &BTreeMap<String, Row>, name: &str) -> Result<(Option<String>, String), StoreError> {
    let current = current_or_first(rows, model(name));
    let others = rows.iter().filter(|(other, row)| {
        let newer = current.is_none_or(|current| number(other) > number(current)) && other.contains('@');
        let shadow = current.is_some_and(|current| other.strip_suffix(SHADOW) == Some(current)) && !row.is_way_back();
        model(other) == model(name) && Some(&***other) != current && (newer && !other.ends_with(SHADOW) || shadow)
    });
    let others: Vec<_> = others.map(|(other, _)| other).collect();
    let pair = |other: &str| (current.map(str::to_owned), other.to_owned());
    if rows.contains_key(name) && name.contains('@') && Some(name) != current {
        return Ok(pair(name));
    }
    match others[..] {
        [one] => Ok(pair(one)),
        [] => Err(Invalid::Request(format!("nothing is built beside {}", list(current.as_slice()))).into()),
        _ => Err(Invalid::Request(format!("`{name}` may be any of {}: say which", list(&others))).into()),
    }
}

pub(crate) async fn check_built(
    processors: &Processors,
    rows: &BTreeMap<String, Row>,
    name: &str,
) -> Result<(), StoreError> {
    let Some(row) = rows.get(name).filter(|row| row.built_at.is_none()) else { return Ok(()) };
    let (at, until) = (processors.store().as_ref().checkpoint(name).await?, Position(row.target));
    match at < until {
        true => Err(StoreError::Building { table: name.into(), at, until }),
        false => Ok(()),
    }
}

/// Called when a read model is built. Returns why readers are not sent to its table, if its rows would lack events that
/// the rows they read now have: the node tries again at the next beat.
pub(crate) async fn built(
    store: &dyn EventStore,
    name: &str,
    table: &Table,
    promote: bool,
) -> Result<Option<StoreError>, StoreError> {
    store.index(table).await?;
    let rows = record::rows(store, &PROCESSORS).await?;
    let current = names::current(&rows, model(name));
    // The first version is promoted at once; newer ones if `promote` is true.
    let first = current_or_first(&rows, model(name)) == Some(name);
    let newer = promote && current.is_none_or(|current| number(current) < table.version);
    if table.shadow || !(newer || first && current.is_none()) {
        return record::mark_built(store, name).await.map(|()| None);
    }
    for _ in 0..TRIES {
        match switch(store, current, name, Rows::Complete).await {
            Ok(true) => return record::mark_built(store, name).await.map(|()| None),
            // It is a step behind the current version. A reader that holds the table is [`StoreError::Busy`], and is
            // tried again at the next beat.
            Ok(false) => sleep(PAUSE).await,
            Err(StoreError::Busy(_)) => return Ok(None),
            Err(parked @ StoreError::Parked { .. }) => return Ok(Some(parked)),
            // An outage of the store. The node tries again.
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                tracing::warn!(projection = name, %error, "readers of plain SQL are not sent to it");
                return record::mark_built(store, name).await.map(|()| None);
            }
        }
    }
    Ok(None)
}

/// Sends readers to another version, or to the shadow. Returns `false`, having changed nothing, if a shard of it is
/// behind the table that is read. [`StoreError::Parked`] if `rows` is `Complete` and a row would be older than the one
/// that is read now. [`Invalid::Request`] if the shadow was promoted already or discarded.
pub(crate) async fn switch(
    store: &dyn EventStore,
    current: Option<&str>,
    to: &str,
    rows: Rows,
) -> Result<bool, StoreError> {
    let base = to.strip_suffix(SHADOW);
    let from = base.or(current.filter(|current| *current != to));
    let mut transaction = store.begin().await?;
    // Lock in the order of names, so that no two nodes or operators wait for each other.
    let mut names: Vec<_> = from.into_iter().chain([to]).collect();
    names.sort_unstable();
    let mut shards = BTreeMap::new();
    for name in names {
        shards.insert(name, transaction.lock_projection(name).await?);
    }
    let new = shards.remove(to).unwrap_or_default();
    let old = from.and_then(|from| shards.remove(from)).unwrap_or_default();
    if base.is_some() && record::row(&mut *transaction, to).await?.is_none_or(|row| row.state == ProcessorState::Kept) {
        transaction.rollback().await?;
        return Err(Invalid::Request(format!("`{to}` has taken its place already, or was discarded")).into());
    }
    let known: BTreeMap<String, Row> =
        record::read_rows(&PROCESSORS, transaction.rows(record::whole(&PROCESSORS)).await?);
    if let Some(read) = names::current(&known, model(to)).filter(|read| Some(*read) != current) {
        transaction.rollback().await?;
        return Err(StoreError::Busy(format!("readers were sent to `{read}` meanwhile").into()));
    }
    // Later than every other version was promoted, whatever the clocks of their programs were.
    let last = names::versions(&known, model(to)).filter_map(|(_, row)| row.promoted_at).max();
    if !reaches(&new, &old) {
        transaction.rollback().await?;
        return Ok(false);
    }
    if let Some(from) = from.filter(|_| rows == Rows::Complete) {
        let letters = dead_letters::first_within(&mut *transaction, to).await?;
        let older = would_be_older(letters, &old, &dead_letters::first_within(&mut *transaction, from).await?);
        if let Some(parked) = dead_letters::parked(to, &older) {
            transaction.rollback().await?;
            return Err(parked);
        }
    }
    let (now, fresh) = (store.now(), || Row::new(store.now(), Position(0)));
    let view = format!("{}@current", model(to));
    let known = |row: Option<Row>| row.unwrap_or_else(fresh);
    match base {
        None => {
            transaction.publish(&view, to).await?;
            let row = known(record::row(&mut *transaction, to).await?);
            // Not built yet if its node has not made the indexes.
            let promoted_at = last.map_or(now, |last| record::later(last, now));
            let row = Row { promoted_at: Some(promoted_at), ..row };
            record::put(&mut *transaction, to, &row).await?;
        }
        Some(base) => {
            transaction.swap(base).await?;
            if current == Some(base) {
                transaction.publish(&view, base).await?;
            }
            let epoch = new.iter().chain(&old).map(|(_, at)| at.epoch).max().unwrap_or_default() + 1;
            transaction.put_shards(base, renamed(base, epoch, new)).await?;
            transaction.put_shards(to, renamed(to, epoch, old)).await?;
            exchange_letters(&mut *transaction, base, to).await?;
            let [here, shadow] =
                [record::row(&mut *transaction, base).await?, record::row(&mut *transaction, to).await?].map(known);
            let (state, since) = (ProcessorState::Kept, record::later(shadow.since, now));
            let kept_at = Some(now);
            let kept = Row { state, since, reason: None, promoted_at: None, kept_at, ..here.clone() };
            // The state stays with the name, such as whether it is paused.
            let (reads, began, missed) = (shadow.reads, shadow.began, shadow.missed);
            let (built_at, target) = (shadow.built_at, shadow.target);
            let here = Row { built_at, target, reads, began, missed, ..here };
            record::put(&mut *transaction, base, &here).await?;
            record::put(&mut *transaction, to, &kept).await?;
        }
    }
    transaction.commit().await?;
    tracing::info!(projection = to, "readers are switched to it");
    Ok(true)
}

type Shards = Vec<(Shard, Checkpoint)>;

/// Returns whether every key has come at least as far in `new` as in `old`.
fn reaches(new: &Shards, old: &Shards) -> bool {
    let before = |(a, at): &(Shard, Checkpoint), (b, other): &(Shard, Checkpoint)| {
        a.from_slot < b.to_slot && b.from_slot < a.to_slot && at.position < other.position
    };
    !new.is_empty() && !new.iter().any(|new| old.iter().any(|old| before(new, old)))
}

/// Returns the dead letters of a table whose rows would be older than the rows that are read now. Compares them with
/// the positions of the shards of the table that is read, and with its own first dead letters.
fn would_be_older(mut letters: Vec<DeadLetter>, read: &Shards, parked: &[DeadLetter]) -> Vec<DeadLetter> {
    // An event that the table that is read has not come to is in none of its rows either.
    letters.retain(|letter| {
        let of_key = read.iter().filter(|(shard, _)| letter.whole_stream || shard.has(&letter.key));
        of_key.map(|(_, at)| at.position).max().is_some_and(|reached| letter.position <= reached)
    });
    dead_letters::older(letters, parked)
}

/// Returns the shards under another name, without owners.
fn renamed(name: &str, epoch: u64, shards: Shards) -> Shards {
    let shards = shards.into_iter();
    shards
        .map(|(shard, at)| (Shard { projection: name.into(), ..shard }, Checkpoint { epoch, owner: None, ..at }))
        .collect()
}

async fn exchange_letters(transaction: &mut dyn Transaction, one: &str, other: &str) -> Result<(), StoreError> {
    let (mut old, mut new) = (vec![], vec![]);
    for (from, to) in [(one, other), (other, one)] {
        for letter in dead_letters::read(transaction.rows(dead_letters::wanted(from, None)).await?)? {
            new.push(letter.moved_to(to));
            old.push(letter);
        }
    }
    if old.is_empty() {
        return Ok(());
    }
    transaction.write(dead_letters::changes(&[], &old)?).await?;
    transaction.write(dead_letters::changes(&new, &[])?).await
}

#[cfg(test)]
mod tests {
    use eventstore_core::{NewEvent, Raw, StreamId, Timestamp, Version};
    use uuid::Uuid;

    use super::*;

    fn shards(positions: &[u64]) -> Shards {
        let at = |position: &u64| Checkpoint { position: Position(*position), ..Checkpoint::default() };
        Shard::parts("p@1", positions.len() as u16).into_iter().zip(positions.iter().map(at)).collect()
    }

    fn letter(key: &str, position: u64, whole_stream: bool) -> DeadLetter {
        let data = Raw { name: "x".into(), tags: vec![], body: vec![] };
        let id = Uuid::from_u128(u128::from(position));
        let event = NewEvent { id, schema: 1, occurred_at: None, metadata: Default::default(), data };
        let now = Timestamp::from_micros(0);
        let event = event.recorded(StreamId::new("a", key), Version(1), Position(position), now);
        DeadLetter::new(&Shard::whole("p@1"), key, &event, "why", now, whole_stream)
    }

    #[test]
    fn p4_a_table_reaches_another_when_no_key_of_it_is_behind() {
        assert!(reaches(&shards(&[7]), &shards(&[7])) && reaches(&shards(&[8]), &shards(&[7])));
        assert!(!reaches(&shards(&[6]), &shards(&[7])));
        // Shards of different ranges are compared where they have slots in common.
        assert!(reaches(&shards(&[7, 5]), &shards(&[7, 6, 5, 4])));
        assert!(!reaches(&shards(&[7, 5]), &shards(&[7, 6, 6, 4])));
        // A table without shards has not begun.
        assert!(!reaches(&shards(&[]), &shards(&[])) && reaches(&shards(&[0]), &shards(&[])));
    }

    #[test]
    fn p4_rows_would_be_older_where_a_key_waits_for_an_event_that_is_in_the_row_that_is_read() {
        let older = |letters: &[DeadLetter], at: u64, parked: &[DeadLetter]| {
            let older = would_be_older(letters.to_vec(), &shards(&[at]), parked);
            older.into_iter().map(|letter| letter.key).collect::<Vec<_>>()
        };
        let ann = letter("ann", 5, false);
        assert_eq!(older(std::slice::from_ref(&ann), 9, &[]), ["ann"]);
        // The table that is read waits at the same event, or at an earlier one; or at a later one, which the new table
        // lacks.
        assert_eq!(older(std::slice::from_ref(&ann), 9, &[letter("ann", 5, false)]), [""; 0]);
        assert_eq!(older(std::slice::from_ref(&ann), 9, &[letter("ann", 4, false)]), [""; 0]);
        assert_eq!(older(std::slice::from_ref(&ann), 9, &[letter("ann", 6, false)]), ["ann"]);
        // A parked key of another name is no excuse, nor is a parked stream of the same name.
        assert_eq!(older(std::slice::from_ref(&ann), 9, &[letter("bob", 4, false), letter("ann", 4, true)]), ["ann"]);
        // The table that is read has not come to the event.
        assert_eq!(older(&[ann], 4, &[]), [""; 0]);
        assert_eq!(older(&[letter("ann", 5, true)], 5, &[]), ["ann"]);
    }
}
