//! Makes rows anew that lack events which their processor did not read before: each row from all of its own events.

use std::collections::{BTreeSet, HashSet};

use eventstore_core::{
    Changes, DeadLetter, EventStore, Position, Raw, Read, Recorded, Shard, StoreError, Table, Transaction,
};
use futures::TryStreamExt;
use uuid::Uuid;

use crate::{
    failure::{Failure, Fault, Halt},
    record::{self, dead_letters, queue::Queue, reads},
    run::{
        admission::{Left, Missed},
        options::Options,
        parked::retry_at,
        processor::{Fence, Processor, RefoldRows},
    },
};

/// How many keys are made anew together; of more, only those of half the slots.
const ROUND: usize = 10_000;
/// How many rows are written together.
const WRITTEN: usize = 500;

/// The rows of a shard that are made anew.
pub struct Refold<'a> {
    pub store: &'a dyn EventStore,
    pub processor: &'a dyn Processor,
    pub table: Table,
    pub fence: &'a dyn Fence,
    /// The names of the events that were passed.
    pub names: &'a [String],
    /// The position of the shard.
    pub until: Position,
    /// The rules by which a key is parked; without them, a failure ends the refold.
    pub parks: Option<Options>,
}

/// The changes that make one row anew.
struct Row {
    changes: Changes,
    put: Vec<DeadLetter>,
    remove: Vec<DeadLetter>,
}

impl Refold<'_> {
    /// Makes the rows of a range of slots anew, and stores that they are.
    pub async fn run(&self, range: Shard) -> Result<(), Halt> {
        let mut ranges = vec![range];
        while let Some(range) = ranges.pop() {
            let Some(keys) = self.keys(&range).await? else {
                let middle = range.from_slot.midpoint(range.to_slot);
                ranges.push(Shard { from_slot: middle, ..range.clone() });
                ranges.push(Shard { to_slot: middle, ..range });
                continue;
            };
            self.rows(keys).await?;
            let (mut transaction, _) = self.fence.open().await?;
            progress(&mut *transaction, &range, self.names, None).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Returns the keys of the events that were passed; `None` if they are too many for one round.
    async fn keys(&self, range: &Shard) -> Result<Option<BTreeSet<String>>, Failure> {
        let read = Read { query: reads::named(self.names), until: Some(self.until), ..Read::default() };
        let mut events = self.store.read(read).await?.events;
        let mut keys = BTreeSet::new();
        while let Some(event) = events.try_next().await? {
            keys.extend(self.processor.keys(&event)?.into_iter().filter(|key| range.has(key)));
            if keys.len() > ROUND && range.to_slot - range.from_slot > 1 {
                return Ok(None);
            }
        }
        Ok(Some(keys))
    }

    async fn rows(&self, keys: BTreeSet<String>) -> Result<(), Halt> {
        let all = dead_letters::read(self.store.rows(dead_letters::wanted(&self.processor.name(), None)).await?)?;
        // Where dead letters say which events a row leaves out, the row is made by itself.
        let (mut alone, mut together): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| all.iter().any(|letter| letter.whole_stream || letter.key == *key));
        let mut written = self.empty();
        'passes: loop {
            for mut pass in self.processor.refold(together.clone()) {
                match self.fold(&mut *pass, None, &HashSet::new()).await {
                    Ok(changes) => {
                        written.upserts.extend(changes.upserts);
                        written.deletes.extend(changes.deletes);
                        together.retain(|key| pass.keys().binary_search(key).is_err());
                    }
                    Err((_, failed)) => {
                        let key =
                            failed.queue.as_ref().map(Queue::key).filter(|key| pass.keys().iter().any(|k| k == key));
                        let Some(key) = key.filter(|_| self.parks.is_some()).map(str::to_owned) else {
                            let unreadable = failed.fault == Fault::Unreadable;
                            return Err(if unreadable { failed.for_certain() } else { failed }.into());
                        };
                        together.retain(|other| *other != key);
                        alone.push(key);
                        continue 'passes;
                    }
                }
                if written.upserts.len() + written.deletes.len() >= WRITTEN {
                    self.write(std::mem::replace(&mut written, self.empty()), &[], &[]).await?;
                }
            }
            break;
        }
        self.write(written, &[], &[]).await?;
        let mut parked: HashSet<_> = all.iter().filter(|letter| letter.skipped.is_none()).map(Queue::of).collect();
        for key in alone {
            let Row { changes, put, remove } = self.alone(&key, &all).await?;
            let queue = Queue::Key(key);
            match (put.first(), &self.parks) {
                (Some(letter), Some(Options { max_parked, .. }))
                    if parked.len() >= *max_parked && !parked.contains(&queue) =>
                {
                    let why = format!("{} keys are parked already, and more would be: {}", parked.len(), letter.error);
                    return Err(Failure::program(why).into());
                }
                (Some(_), _) => _ = parked.insert(queue),
                (None, _) => _ = parked.remove(&queue),
            }
            self.write(changes, &put, &remove).await?;
        }
        Ok(())
    }

    fn empty(&self) -> Changes {
        Changes { table: self.table, upserts: vec![], deletes: vec![] }
    }

    /// Folds the events of rows up to the position of the shard, or before a given one. An error comes with the
    /// position of its event, 0 if it has none.
    async fn fold(
        &self,
        rows: &mut dyn RefoldRows,
        before: Option<Position>,
        skips: &HashSet<Uuid>,
    ) -> Result<Changes, (Position, Failure)> {
        let nowhere = |failed: Failure| (Position(0), failed);
        let until = before.map_or(self.until, |before| Position(before.0.saturating_sub(1)));
        for checks in [false, true] {
            let read = Read { query: rows.query(), until: Some(until), ..Read::default() };
            let mut events = self.store.read(read).await.map_err(|error| nowhere(error.into()))?.events;
            while let Some(event) = events.try_next().await.map_err(|error| nowhere(error.into()))? {
                if skips.contains(&event.id) {
                    continue;
                }
                rows.apply(&event).map_err(|failed| (event.position, failed))?;
                if checks {
                    rows.check().map_err(|failed| (event.position, failed.at(&event)))?;
                }
            }
            match rows.changes() {
                // Fold once more, checking each row after each event, to find the event that made a row no table can
                // hold. `changes` has emptied the rows.
                Err(failed) if failed.fault == Fault::Row && !checks => {}
                changes => return changes.map_err(nowhere),
            }
        }
        Err(nowhere(Failure::program("rows that no table can hold were made by none of their events")))
    }

    /// Makes one row anew. If an event fails, the row ends before it, and its key is parked behind it.
    async fn alone(&self, key: &str, all: &[DeadLetter]) -> Result<Row, Halt> {
        let waits = |letter: &&DeadLetter| letter.key == key && !letter.whole_stream && letter.skipped.is_none();
        let waiting: Vec<_> = all.iter().filter(waits).cloned().collect();
        let left_out = |letter: &&DeadLetter| match letter.whole_stream {
            true => letter.skipped.is_none(),
            false => letter.key == key && letter.skipped.is_some(),
        };
        let skips: HashSet<_> = all.iter().filter(left_out).map(|letter| letter.event).collect();
        let row =
            || self.processor.refold(vec![key.to_owned()]).pop().ok_or_else(|| Failure::program("it has no rows"));
        let (at, failed) = match self.fold(&mut *row()?, None, &skips).await {
            Ok(changes) => return Ok(Row { changes, put: vec![], remove: waiting }),
            Err(failed) => failed,
        };
        let Some(options) = self.parks else { return Err(failed.into()) };
        let certain = match failed.fault {
            Fault::Event | Fault::Later => false,
            Fault::Row => true,
            Fault::Unreadable if options.park_unreadable => true,
            Fault::Unreadable => return Err(failed.for_certain().into()),
            Fault::World | Fault::Program => return Err(failed.into()),
        };
        let mut anew = row()?;
        let changes = self.fold(&mut *anew, Some(at), &skips).await.map_err(|(_, failed)| failed)?;
        let (queue, now, shard) = (Queue::Key(key.into()), self.store.now(), Shard::whole(self.processor.name()));
        let after = Position(at.0.saturating_sub(1));
        let read = Read { query: anew.query(), after, until: Some(self.until), ..Read::default() };
        let mut events = self.store.read(read).await?.events;
        let mut put: Vec<DeadLetter> = vec![];
        while let Some(event) = events.try_next().await? {
            let first = event.position == at;
            if skips.contains(&event.id) || !first && !self.concerns(&event, key)? {
                continue;
            }
            let mut letter = queue.letter(&shard, &event, if first { "" } else { dead_letters::BEHIND }, now);
            if first {
                letter.say(&failed.to_string());
                letter.retry_at = retry_at(0, certain, now);
            }
            put.push(letter);
        }
        let remove = waiting.into_iter().filter(|letter| put.iter().all(|put| put.event != letter.event)).collect();
        Ok(Row { changes, put, remove })
    }

    fn concerns(&self, event: &Recorded<Raw>, key: &str) -> Result<bool, Failure> {
        Ok(self.processor.keys(event)?.iter().any(|concerned| concerned == key))
    }

    async fn write(&self, changes: Changes, put: &[DeadLetter], remove: &[DeadLetter]) -> Result<(), Halt> {
        if changes.is_empty() && put.is_empty() && remove.is_empty() {
            return Ok(());
        }
        let (mut transaction, at) = self.fence.open().await?;
        if at.position != self.until {
            transaction.rollback().await?;
            return Err(StoreError::Busy("its shard was moved meanwhile".into()).into());
        }
        if !changes.is_empty() {
            transaction.write(changes).await?;
        }
        if !put.is_empty() || !remove.is_empty() {
            transaction.write(dead_letters::changes(put, remove)?).await?;
        }
        Ok(transaction.commit().await?)
    }
}

/// Stores, in a transaction that has locked a processor, that events of these names were processed for a range of
/// slots: up to a position, or all of them.
pub async fn progress(
    transaction: &mut dyn Transaction,
    range: &Shard,
    names: &[String],
    to: Option<Position>,
) -> Result<(), Failure> {
    let Some(mut known) = record::row(transaction, &range.projection).await? else { return Ok(()) };
    let mut missed = Missed::of(&known)?;
    for missed in missed.iter_mut().filter(|missed| missed.names == names) {
        missed.left = without(&missed.left, range);
        let left = to.map(|to| Left { from: range.from_slot, to: range.to_slot, after: to.0 });
        missed.left.extend(left);
    }
    missed.retain(|missed| !missed.left.is_empty());
    known.missed = Missed::json(&missed);
    Ok(record::put(transaction, &range.projection, &known).await?)
}

/// Returns what is left of ranges without the slots of another range.
fn without(left: &[Left], range: &Shard) -> Vec<Left> {
    let parts = left.iter().flat_map(|left| {
        let before = Left { to: left.to.min(range.from_slot), ..*left };
        let behind = Left { from: left.from.max(range.to_slot), ..*left };
        [before, behind]
    });
    parts.filter(|left| left.from < left.to).collect()
}

/// Returns which passed events a shard still has to process: names, slots, and the position after which.
pub fn pending(missed: &[Missed], shard: &Shard) -> Vec<(Vec<String>, Shard, Position)> {
    let mut all = vec![];
    for Missed { names, left } in missed {
        for left in left {
            let slots = left.from.max(shard.from_slot)..left.to.min(shard.to_slot);
            if !slots.is_empty() {
                all.push((names.clone(), Shard::new(&*shard.projection, slots), Position(left.after)));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e5_what_was_made_anew_is_not_left() {
        let left = |from, to| Left { from, to, after: 7 };
        let range = |from, to| Shard::new("p", from..to);
        assert_eq!(without(&[left(0, 1024)], &range(0, 1024)), []);
        assert_eq!(without(&[left(0, 1024)], &range(256, 512)), [left(0, 256), left(512, 1024)]);
        assert_eq!(without(&[left(0, 256), left(512, 1024)], &range(200, 600)), [left(0, 200), left(600, 1024)]);
        assert_eq!(without(&[left(0, 256)], &range(256, 512)), [left(0, 256)]);
        let missed = [Missed { names: vec!["a".into()], left: vec![left(0, 256), left(512, 1024)] }];
        let of = |from, to| pending(&missed, &range(from, to)).into_iter().map(|(_, range, after)| (range, after.0));
        assert_eq!(of(128, 640).collect::<Vec<_>>(), [(range(128, 256), 7), (range(512, 640), 7)]);
        assert_eq!(of(256, 512).count(), 0);
    }
}
