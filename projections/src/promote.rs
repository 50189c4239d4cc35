//! Sends readers to another version of a read model, or to a table that was built beside theirs.

use std::{collections::BTreeMap, time::Duration};

use eventstore_core::{
    Checkpoint, DeadLetter, EventStore, Invalid, Position, Shard, StoreError, Table, Transaction, engine::SHADOW,
};
use tokio::time::sleep;

use eventstore_engine::{
    Processors,
    record::{
        self, PROCESSORS, ProcessorState, Row, dead_letters, list,
        names::{current, current_or_first, model, number},
    },
};

/// How often a node tries to send readers to a new version that is a step behind, before it does something else.
const TRIES: u32 = 20;
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// Whether readers may be sent to a table some of whose keys wait behind an event that those of the other do not wait for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Rows {
    Complete,
    Any,
}

/// What `name` may stand for, of what is there beside the current version.
pub(crate) fn counterpart(rows: &BTreeMap<String, Row>, name: &str) -> Result<(Option<String>, String), StoreError> {
    let current = current_or_first(rows, model(name));
    let others = rows.iter().filter(|(other, row)| {
        let newer = current.is_none_or(|current| number(other) > number(current)) && other.contains('@');
        let shadow = current.is_some_and(|current| other.strip_suffix(SHADOW) == Some(current))
            && row.state != ProcessorState::Kept;
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
    let (at, until) = (processors.store.as_ref().checkpoint(name).await?, Position(row.target));
    match at < until {
        true => Err(StoreError::Building { table: name.into(), at, until }),
        false => Ok(()),
    }
}

/// A read model has come to where the log ended when it began. Returns why readers are not sent to its table, if its rows
/// would lack events that those they read now have: the next look tries again.
pub(crate) async fn built(
    store: &dyn EventStore,
    name: &str,
    table: &Table,
    promote: bool,
) -> Result<Option<StoreError>, StoreError> {
    store.index(table).await?;
    let rows = record::rows(store, &PROCESSORS).await?;
    let current = current(&rows, model(name));
    // The first one at once; then newer ones.
    let first = current_or_first(&rows, model(name)) == Some(name);
    let newer = promote && current.is_none_or(|current| number(current) < table.version);
    if table.shadow || !(newer || first && current.is_none()) {
        return record::mark_built(store, name).await.map(|()| None);
    }
    for _ in 0..TRIES {
        match switch(store, current, name, Rows::Complete).await {
            Ok(true) => return Ok(None),
            // It is a step behind the other, or a reader holds the table: again, at the next beat at the latest.
            Ok(false) => sleep(PAUSE).await,
            Err(StoreError::Busy(_)) => return Ok(None),
            Err(parked @ StoreError::Parked { .. }) => return Ok(Some(parked)),
            Err(error) => {
                tracing::warn!(projection = name, %error, "readers of plain SQL are not sent to it");
                return record::mark_built(store, name).await.map(|()| None);
            }
        }
    }
    Ok(None)
}

/// Sends readers to another version, or to the shadow; not if any row would be older than it was.
pub(crate) async fn switch(
    store: &dyn EventStore,
    current: Option<&str>,
    to: &str,
    rows: Rows,
) -> Result<bool, StoreError> {
    let base = to.strip_suffix(SHADOW);
    let from = base.or(current.filter(|current| *current != to));
    let mut transaction = store.begin().await?;
    // Always in this order: no two wait for each other.
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
            let row = Row { built_at: row.built_at.or(Some(now)), promoted_at: Some(now), ..row };
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
            let (state, since) = (ProcessorState::Kept, now);
            let kept = Row { state, since, reason: None, promoted_at: None, ..here.clone() };
            // What was said of the name stays: whether it is paused.
            let (reads, began, missed) = (shadow.reads, shadow.began, shadow.missed);
            let (built_at, target) = (shadow.built_at.or(Some(now)), shadow.target);
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

/// Whether every key has come as far in one as in the other.
fn reaches(new: &Shards, old: &Shards) -> bool {
    let before = |(a, at): &(Shard, Checkpoint), (b, other): &(Shard, Checkpoint)| {
        a.from_slot < b.to_slot && b.from_slot < a.to_slot && at.position < other.position
    };
    !new.is_empty() && !new.iter().any(|new| old.iter().any(|old| before(new, old)))
}

/// Of the first letters of keys of a table, those of rows that would be older than those that are read now: by where the
/// shards of the table that is read are, and by its own first letters.
fn would_be_older(mut letters: Vec<DeadLetter>, read: &Shards, parked: &[DeadLetter]) -> Vec<DeadLetter> {
    // What the table that is read has not come to is in none of its rows either.
    letters.retain(|letter| {
        let of_key = read.iter().filter(|(shard, _)| letter.whole_stream || shard.has(&letter.key));
        of_key.map(|(_, at)| at.position).max().is_some_and(|reached| letter.position <= reached)
    });
    dead_letters::older(letters, parked)
}

/// The same under another name, without an owner.
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
        // Shards of other cuts are compared where they have slots in common.
        assert!(reaches(&shards(&[7, 5]), &shards(&[7, 6, 5, 4])));
        assert!(!reaches(&shards(&[7, 5]), &shards(&[7, 6, 6, 4])));
        // What has no shards has not begun.
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
        // The table that is read waits there, too, or earlier; or at a later event, which the new one has not got.
        assert_eq!(older(std::slice::from_ref(&ann), 9, &[letter("ann", 5, false)]), [""; 0]);
        assert_eq!(older(std::slice::from_ref(&ann), 9, &[letter("ann", 4, false)]), [""; 0]);
        assert_eq!(older(std::slice::from_ref(&ann), 9, &[letter("ann", 6, false)]), ["ann"]);
        // Another key that waits is no excuse, nor is a stream of the same name.
        assert_eq!(older(std::slice::from_ref(&ann), 9, &[letter("bob", 4, false), letter("ann", 4, true)]), ["ann"]);
        // The table that is read has not come to the event.
        assert_eq!(older(&[ann], 4, &[]), [""; 0]);
        assert_eq!(older(&[letter("ann", 5, true)], 5, &[]), ["ann"]);
    }
}
