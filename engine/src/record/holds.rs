//! The table of requests to the shards of a processor, and how nodes carry them out: to split or merge, or to stop at
//! one position for a while.
//!
//! Shards that are merged must be at one position. Where they are not, all are held at the furthest position that any
//! has reached: those behind run up to it, the others wait. Then new shards replace all of them in one transaction. The
//! operator that asked may die meanwhile: its request is in a table, and the nodes carry it out.

use std::time::Duration;

use eventstore_core::{
    Checkpoint, Column, EventStore, Invalid, Kind, Position, Shard, StoreError, Table, Timestamp, Transaction,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::record::{self, dead_letters};

/// The table of open requests, by the name of the processor.
pub(crate) const RESHARDS: Table = Table {
    name: "reshards",
    version: 0,
    shadow: false,
    columns: &[
        Column::new("shards", Kind::Integer),
        Column::new("until", Kind::Integer),
        Column::new("asked_at", Kind::Time),
    ],
};

/// An open request: how many shards a processor is to have, and where all of them stop until then.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// The number of shards; 0: as many as there are, which only stop.
    shards: u16,
    pub until: Position,
    asked_at: Timestamp,
}

/// How long shards that only stop do so at most, if they are not let go: the operator may have been killed. Longer than
/// any operator waits for them.
const HELD: Duration = Duration::from_secs(35);

/// Holds all shards of these processors at one position, the furthest that any has reached. `asked_at` identifies the
/// hold for [`let_go`]. [`StoreError::Busy`] if the shards of one are being changed.
pub(crate) async fn hold(
    store: &dyn EventStore,
    projections: &[String],
    asked_at: Timestamp,
) -> Result<(), StoreError> {
    store.create(&RESHARDS).await?;
    let mut transaction = store.begin().await?;
    let (mut names, mut all) = (projections.iter().collect::<Vec<_>>(), vec![]);
    // Lock in the order of names, so that no two operators wait for each other.
    names.sort_unstable();
    for name in names {
        all.push((name, transaction.lock_projection(name).await?));
    }
    let until = all.iter().flat_map(|(_, shards)| shards).map(|(_, at)| at.position).max().unwrap_or_default();
    for (name, _) in all {
        let there = wanted(transaction.rows(record::key(&RESHARDS, name)).await?)?;
        if there.is_some_and(|there| there.shards > 0) {
            transaction.rollback().await?;
            return Err(StoreError::Busy(format!("the shards of `{name}` are being changed").into()));
        }
        let hold = Wanted { shards: 0, until, asked_at };
        transaction.write(record::upsert(&RESHARDS, name, &hold)?).await?;
        record::begin_again(&mut *transaction, name, |_| true).await?;
    }
    transaction.commit().await
}

/// Lets the shards go on, unless something else was requested since.
pub(crate) async fn let_go(
    store: &dyn EventStore,
    projections: &[String],
    asked_at: Timestamp,
) -> Result<(), StoreError> {
    for name in projections {
        let mut transaction = store.begin().await?;
        transaction.lock_projection(name).await?;
        let there = wanted(transaction.rows(record::key(&RESHARDS, name)).await?)?;
        if there.is_some_and(|there| (there.shards, there.asked_at) == (0, asked_at)) {
            go_on(transaction, name).await?;
        } else {
            transaction.rollback().await?;
        }
    }
    Ok(())
}

/// Carries a request on, a new one (`asked`) or the stored one. Returns whether nothing is left to do.
/// [`Invalid::Request`] if more than one shard is wanted while all of a stream waits: the stored request is then
/// canceled.
pub async fn step(store: &dyn EventStore, projection: &str, asked: Option<u16>) -> Result<bool, StoreError> {
    let mut transaction = store.begin().await?;
    let shards = transaction.lock_projection(projection).await?;
    let before = wanted(transaction.rows(record::key(&RESHARDS, projection)).await?)?;
    if let (None, Some(Wanted { shards: 0, asked_at, .. })) = (asked, before) {
        transaction.rollback().await?;
        if asked_at + HELD < store.now() {
            cancel(store, projection).await?;
        }
        return Ok(true);
    }
    let count = asked.or(before.map(|before| before.shards));
    let Some(count) = count.filter(|_| !shards.is_empty()) else {
        if before.is_some() {
            transaction.write(record::delete(&RESHARDS, projection)).await?;
        }
        transaction.commit().await?;
        return Ok(true);
    };
    if count > 1 {
        let waiting = dead_letters::first_within(&mut *transaction, projection).await?;
        if let Some(letter) = waiting.iter().find(|letter| letter.whole_stream) {
            transaction.rollback().await?;
            if before.is_some() {
                cancel(store, projection).await?;
            }
            let why = format!("all of stream `{}` waits, whichever keys it has: retry or skip it first", letter.key);
            return Err(Invalid::Request(why).into());
        }
    }
    if let Some(new) = cut(projection, &shards, count) {
        transaction.put_shards(projection, new).await?;
        transaction.write(record::delete(&RESHARDS, projection)).await?;
        transaction.commit().await?;
        return Ok(true);
    }
    let until = shards.iter().map(|(_, at)| at.position).max().unwrap_or_default();
    if before.is_some_and(|before| (before.shards, before.until) == (count, until)) {
        transaction.rollback().await?;
        return Ok(false);
    }
    let now = Wanted { shards: count, until, asked_at: store.now() };
    transaction.write(record::upsert(&RESHARDS, projection, &now)?).await?;
    // Raise the epochs, so that the nodes read where their shards stop.
    record::begin_again(&mut *transaction, projection, |_| true).await?;
    transaction.commit().await?;
    Ok(false)
}

/// Cancels the request: all shards go on as they are.
pub async fn cancel(store: &dyn EventStore, projection: &str) -> Result<(), StoreError> {
    go_on(store.begin().await?, projection).await
}

async fn go_on(mut transaction: Box<dyn Transaction>, projection: &str) -> Result<(), StoreError> {
    record::begin_again(&mut *transaction, projection, |_| true).await?;
    transaction.write(record::delete(&RESHARDS, projection)).await?;
    transaction.commit().await
}

/// Returns `count` shards to replace these, without an owner; `None` if some that would be merged are not at one
/// position.
fn cut(projection: &str, from: &[(Shard, Checkpoint)], count: u16) -> Option<Vec<(Shard, Checkpoint)>> {
    // Higher than all before: a shard with the same slots may have existed, with a lower epoch.
    let epoch = from.iter().map(|(_, at)| at.epoch).max()? + 1;
    let new = |part: Shard| {
        let meets = |shard: &Shard| shard.from_slot < part.to_slot && part.from_slot < shard.to_slot;
        let mut of = from.iter().filter(|(shard, _)| meets(shard)).map(|(_, at)| *at);
        let first = of.next()?;
        let together = of.all(|at| at.position == first.position);
        together.then_some((part, Checkpoint { epoch, owner: None, ..first }))
    };
    Shard::parts(projection, count).into_iter().map(new).collect()
}

/// Returns the request that was found. One that another release has written in a form of its own counts as none: the
/// nodes of that release carry it out.
fn wanted(found: Vec<(String, Box<RawValue>)>) -> Result<Option<Wanted>, StoreError> {
    Ok(record::first(&RESHARDS, found).unwrap_or_default())
}

/// Returns the position at which the shards of a processor are held, if they are.
pub async fn until(store: &dyn EventStore, projection: &str) -> Result<Option<Position>, StoreError> {
    Ok(wanted(store.rows(record::key(&RESHARDS, projection)).await?)?.map(|wanted| wanted.until))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(slots: std::ops::Range<u16>, position: u64, epoch: u64) -> (Shard, Checkpoint) {
        (Shard::new("p", slots), Checkpoint { position: Position(position), epoch, ..Checkpoint::default() })
    }

    #[test]
    fn p6_only_shards_at_one_position_become_one() {
        let three = [at(0..341, 7, 4), at(341..682, 7, 9), at(682..1024, 5, 1)];
        assert_eq!(cut("p", &three, 1), None);
        assert_eq!(cut("p", &three, 2), None, "the second half would be of two positions");
        let four = [at(0..256, 7, 4), at(256..512, 7, 9), at(512..768, 5, 1), at(768..1024, 5, 1)];
        assert_eq!(cut("p", &four, 2), Some(vec![at(0..512, 7, 10), at(512..1024, 5, 10)]));
        let eight = cut("p", &four, 8).expect("a split needs no shard to move");
        assert_eq!(eight.iter().map(|(_, at)| at.position.0).collect::<Vec<_>>(), [7, 7, 7, 7, 5, 5, 5, 5]);
        assert_eq!(cut("p", &[], 3), None);
    }
}
